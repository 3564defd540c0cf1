"""What a placement decides, and what it decides on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from app.quant.nodes import Index, find_fixed, index_graph, op_of
from app.quant.tensor_types import Shape, TensorType

WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

Types = Mapping[str, TensorType]


@dataclass(frozen=True)
class WeightUse:
    """Input `position` of a node is the constant `tensor`, quantized along `axis` (None: per tensor)."""

    position: int
    tensor: str
    axis: int | None


@dataclass(frozen=True)
class Reads:
    """The inputs of one node that become INT8."""

    activations: tuple[int, ...]
    weight: WeightUse | None = None


@dataclass
class PlacementPlan:
    """What is quantized. Nodes are known by their first output."""

    reads: dict[str, Reads] = field(default_factory=dict)
    #: Activations with a Q/DQ pair, in the order of their first reader.
    tensors: list[str] = field(default_factory=list)
    #: Pairs of tensors that must have one scale.
    same_scale: list[tuple[str, str]] = field(default_factory=list)
    #: Nodes with weights, or two activations to multiply, that stay float: first output -> why.
    kept_float: dict[str, str] = field(default_factory=dict)

    def add(self, node: onnx.NodeProto, reads: Reads) -> None:
        """Quantize these inputs of node."""
        self.reads[node.output[0]] = reads
        self.tensors.extend(n for n in (node.input[i] for i in reads.activations) if n not in self.tensors)


@dataclass(frozen=True)
class Scene:
    """A prepared graph as a placement looks at it. `float_nodes`: first outputs of nodes that must stay float -> why."""

    nodes: tuple[onnx.NodeProto, ...]
    index: Index
    types: Types
    float_nodes: Mapping[str, str]
    #: Tensors that no image changes.
    fixed: frozenset[str]
    #: Tensors that no node with weights stands before.
    first: frozenset[str]

    def is_activation(self, name: str) -> bool:
        """Whether name is computed from the inputs, in float32."""
        known = self.types.get(name)
        return bool(name) and known is not None and known.element == onnx.TensorProto.FLOAT and name not in self.fixed

    def is_weight(self, name: str) -> bool:
        """Whether name is a constant in float32 of two dimensions or more."""
        tensor = self.index.constants.get(name)
        return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2

    def shape(self, name: str) -> Shape | None:
        """Return the shape of name as far as it is known."""
        known = self.types.get(name)
        return None if known is None else known.shape


def make_scene(model: onnx.ModelProto, types: Types, float_nodes: Mapping[str, str] | None = None) -> Scene:
    """Return the scene of a prepared model."""
    graph = model.graph
    standard = tuple(node for node in graph.node if op_of(node))
    return Scene(standard, index_graph(graph), types, float_nodes or {}, find_fixed(graph), _find_first(graph))


def _find_first(graph: onnx.GraphProto) -> frozenset[str]:
    first = {value.name for value in graph.input}
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in WEIGHTED_OPS or behind.intersection(node.input):
            behind.update(node.output)
        elif first.intersection(node.input):
            first.update(node.output)
    return frozenset(first - behind)
