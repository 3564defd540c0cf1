"""Small readings of an ONNX graph: attributes, constants, who makes and who reads a tensor."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

FLOAT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})


def op_of(node: onnx.NodeProto) -> str:
    """Return the operator's name; an empty text for one of another domain, which may bear the name of a standard one."""
    return node.op_type if node.domain in ("", "ai.onnx") else ""


def get_attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Return the value of an attribute of node as Python value, or default."""
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def get_int(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of node, or default."""
    value = get_attribute(node, name, default)
    return value if isinstance(value, int) else default


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    """Set an attribute of node, replacing one of that name."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def find_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the subgraphs of a control-flow node, nested ones included, without recursion."""
    waiting = [node]
    while waiting:
        for attribute in waiting.pop().attribute:
            graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
            for graph in graphs:
                yield graph
                waiting.extend(graph.node)


def find_captured(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return every name that a subgraph of the nodes mentions: such tensors must keep name, type and value."""
    names: set[str] = set()
    for node in nodes:
        for graph in find_subgraphs(node):
            names.update(output.name for output in graph.output)
            for inner in graph.node:
                names.update(inner.input)
    return names


def find_fixed(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the tensors of the main graph that no image changes: constants, shapes, and what is computed from them."""
    fixed = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        is_shape = op_of(node) in ("Shape", "Size")
        has_subgraphs = next(find_subgraphs(node), None) is not None
        if is_shape or (not has_subgraphs and all(name in fixed for name in node.input if name)):
            fixed.update(node.output)
    return frozenset(fixed)


@dataclass(frozen=True)
class Index:
    """Who makes and who reads each tensor of a graph, as it was when `index_graph` looked."""

    producers: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    constants: dict[str, onnx.TensorProto]
    #: Graph outputs and what subgraphs mention.
    protected: frozenset[str]

    def array(self, name: str) -> np.ndarray | None:
        """Return the value of an initializer, None when name is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """Return the one node that reads name, None when more than one does or the tensor is protected."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.protected else None


def index_graph(graph: onnx.GraphProto) -> Index:
    """Return the index of graph; it is out of date once the graph changes."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            consumers.setdefault(name, []).append(node)
    return Index(
        producers={name: node for node in graph.node for name in node.output if name},
        consumers=consumers,
        constants={tensor.name: tensor for tensor in graph.initializer},
        protected=frozenset({output.name for output in graph.output} | find_captured(graph.node)),
    )


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make nodes the graph's nodes, in this order."""
    copies = [_copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def replace_initializers(graph: onnx.GraphProto, tensors: list[onnx.TensorProto]) -> None:
    """Make tensors the graph's initializers, in this order."""
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def taken_names(graph: onnx.GraphProto) -> set[str]:
    """Return every name that a tensor of the graph or of its subgraphs has."""
    names = find_captured(graph.node)
    for each in (graph, *(inner for node in graph.node for inner in find_subgraphs(node))):
        names.update(value.name for value in (*each.initializer, *each.input))
        names.update(name for node in each.node for name in node.output)
    return names


class Namer:
    """Gives names that no tensor and no node of a graph has."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = taken_names(graph) | {node.name for node in graph.node}

    def name(self, wish: str) -> str:
        """Return wish, or wish with a number where it is taken; the name is taken from now on."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}_{number}"
        self._taken.add(name)
        return name
