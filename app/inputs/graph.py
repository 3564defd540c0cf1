"""An ONNX graph, walked once without recursion: names, order, operators, subgraphs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from app.errors import ModelInvalidGraph, ModelTensorNameUnsafe, ModelTooComplex, ModelUnsupportedOp
from app.inputs.limits import InputLimits
from app.inputs.operators import check_operator, get_opset, node_name


@dataclass
class GraphFacts:
    """What was counted and found in a graph and its subgraphs."""

    operators: Counter[str] = field(default_factory=Counter)
    initializers: list[TensorProto] = field(default_factory=list)
    #: Tensors in attributes, those of Constant nodes above all.
    constants: list[TensorProto] = field(default_factory=list)
    attributes: int = 0

    @property
    def nodes(self) -> int:
        return self.operators.total()


@dataclass
class _Scope:
    """A graph on the way, with the names known so far; `pending` is the node whose subgraphs are being walked."""

    graph: GraphProto
    parent: "_Scope | None"
    depth: int
    nodes: Iterator[NodeProto]
    known: set[str]
    node_names: set[str] = field(default_factory=set)
    pending: NodeProto | None = None

    def knows(self, name: str) -> bool:
        scope: _Scope | None = self
        while scope:
            if name in scope.known:
                return True
            scope = scope.parent
        return False


@dataclass
class _Walk:
    opset: int
    limits: InputLimits
    facts: GraphFacts = field(default_factory=GraphFacts)


def check_graph(model: ModelProto, limits: InputLimits) -> GraphFacts:
    """Walk the graph and its subgraphs in order and return what is in them.

    Raises ModelInvalidGraph (dangling or repeated names, of nodes too; cycles), ModelTooComplex, ModelTensorNameUnsafe,
    ModelUnsupportedOp and ModelAlreadyQuantized.
    """
    walk = _Walk(get_opset(model), limits)
    scopes = [_open(model.graph, None, walk)]
    while scopes:
        scope = scopes[-1]
        if scope.pending:
            _learn_outputs(scope, scope.pending, limits)
        scope.pending = next(scope.nodes, None)
        if scope.pending is None:
            _check_graph_outputs(scope)
            scopes.pop()
            continue
        _check_node(scope, scope.pending, walk)
        # Subgraphs see the names that are known at their node, so they are walked before the next node is.
        scopes += [_open(graph, scope, walk) for graph in _subgraphs(scope.pending)]
    return walk.facts


def _open(graph: GraphProto, parent: _Scope | None, walk: _Walk) -> _Scope:
    depth = parent.depth + 1 if parent else 0
    if depth > walk.limits.model_depth:
        raise ModelTooComplex(reason=f"subgraphs are nested deeper than {walk.limits.model_depth}")
    if graph.sparse_initializer:
        raise ModelUnsupportedOp(node="(all)", op="a sparse initializer", reason="weights must be dense")
    walk.facts.initializers += graph.initializer
    if len(walk.facts.initializers) > walk.limits.model_initializers:
        raise ModelTooComplex(reason=f"it has more than {walk.limits.model_initializers} initializers")
    inputs = _unique((value.name for value in graph.input), "input", walk.limits)
    constants = _unique((tensor.name for tensor in graph.initializer), "initializer", walk.limits)
    return _Scope(graph, parent, depth, iter(graph.node), inputs | constants)


def _unique(names: Iterator[str], what: str, limits: InputLimits) -> set[str]:
    known: set[str] = set()
    for name in names:
        _check_name(name, limits)
        if name in known:
            raise ModelInvalidGraph(reason=f"two {what}s have the name {name}")
        known.add(name)
    return known


def _check_name(name: str | bytes, limits: InputLimits) -> None:
    # protobuf hands text out as bytes where it is no UTF-8.
    if isinstance(name, bytes):
        raise ModelTensorNameUnsafe(reason=f"{name[:50]!r} is not UTF-8")
    if not name:
        raise ModelTensorNameUnsafe(reason="it is empty")
    if len(name) > limits.tensor_name_characters:
        raise ModelTensorNameUnsafe(reason=f"{name[:50]}... is longer than {limits.tensor_name_characters} characters")
    # Not printable: control characters, line separators, invisible and direction-changing characters.
    if not name.isprintable() or name != name.strip():
        raise ModelTensorNameUnsafe(reason=f"{name!a} has control or invisible characters, or blanks at its ends")


def _check_node(scope: _Scope, node: NodeProto, walk: _Walk) -> None:
    check_operator(node, walk.opset)
    walk.facts.operators[node.op_type] += 1
    walk.facts.attributes += len(node.attribute)
    if walk.facts.attributes > walk.limits.model_attributes:
        raise ModelTooComplex(reason=f"it has more than {walk.limits.model_attributes} attributes")
    if walk.facts.operators.total() > walk.limits.model_nodes:
        raise ModelTooComplex(reason=f"it has more than {walk.limits.model_nodes} nodes")
    walk.facts.constants += (tensor for attribute in node.attribute for tensor in _tensors(attribute))
    for name in node.input:
        if name and not scope.knows(name):
            raise ModelInvalidGraph(reason=_why_unknown(scope, node, name))
    if node.name and node.name in scope.node_names:
        raise ModelInvalidGraph(reason=f"two nodes have the name {node_name(node)}, which ONNX Runtime refuses; rename one")
    scope.node_names.add(node.name)


def _why_unknown(scope: _Scope, node: NodeProto, name: str) -> str:
    if any(name in later.output for later in scope.graph.node):
        return f"node {node_name(node)} takes {name} before it is made: a cycle, or nodes out of order"
    return f"node {node_name(node)} takes {name}, which nothing makes"


def _learn_outputs(scope: _Scope, node: NodeProto, limits: InputLimits) -> None:
    for name in filter(None, node.output):
        _check_name(name, limits)
        if name in scope.known:
            raise ModelInvalidGraph(reason=f"{name} is made twice, the second time by node {node_name(node)}")
        scope.known.add(name)


def _check_graph_outputs(scope: _Scope) -> None:
    seen: set[str] = set()
    for value in scope.graph.output:
        if not scope.knows(value.name):
            raise ModelInvalidGraph(reason=f"nothing makes the output {value.name}")
        if value.name in seen:
            raise ModelInvalidGraph(reason=f"two outputs have the name {value.name}")
        seen.add(value.name)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def count_text(model: ModelProto) -> int:
    """Return how many characters the model's doc strings and metadata have together."""
    properties = sum(len(entry.key) + len(entry.value) for entry in model.metadata_props)
    nodes = sum(len(node.doc_string) for node in model.graph.node)
    return len(model.doc_string) + len(model.graph.doc_string) + properties + nodes
