"""Decide which tensors get a Q/DQ pair and which nodes read it, by TensorRT's rules.

conservative: the activation inputs of Conv, ConvTranspose, Gemm and MatMul that have constant weights.
default: these, both inputs of a MatMul of two activations, and the shortcut of a residual Add (never the branch that
    the convolution writes: runtimes fuse that one).
fused: these, and the inputs of pooling, Concat, Resize and of layout changes between quantized nodes, so that INT8
    flows on; what only moves or selects values shares one scale between inputs and output.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from app.errors import UnsupportedOption
from app.quant.nodes import Index, get_attribute, get_int, index_graph
from app.quant.tensor_types import Shape, TensorType

PLACEMENTS = ("conservative", "default", "fused")
WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

#: Below this many channels INT8 convolutions are slower than float ones (first layers excepted).
_LEAST_CHANNELS = 16
#: Ops that move or select values: inputs and output share one scale.
_SAME_SCALE_OPS = frozenset(["Concat", "Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"])
_THROUGH_OPS = _SAME_SCALE_OPS | {"AveragePool", "GlobalAveragePool", "Resize"}

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
class _Scene:
    index: Index
    types: Types
    float_nodes: Mapping[str, str]
    #: Tensors that no node with weights stands before.
    first: frozenset[str]

    def is_activation(self, name: str) -> bool:
        known = self.types.get(name)
        is_float = known is not None and known.element == onnx.TensorProto.FLOAT
        return bool(name) and is_float and name not in self.index.constants

    def is_weight(self, name: str) -> bool:
        tensor = self.index.constants.get(name)
        return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2

    def shape(self, name: str) -> Shape | None:
        known = self.types.get(name)
        return None if known is None else known.shape


def plan_placement(
    model: onnx.ModelProto, types: Types, placement: str, float_nodes: Mapping[str, str] | None = None
) -> PlacementPlan:
    """Return the plan for a prepared model; float_nodes maps the first outputs of nodes that must stay float to why.

    Raises UnsupportedOption for `measured`, which needs timings of a GPU.
    """
    if placement not in PLACEMENTS:
        reason = f"it needs timings of a GPU worker; there are {', '.join(PLACEMENTS)}"
        raise UnsupportedOption(option=f"quantize.placement {placement}", reason=reason)
    graph = model.graph
    scene = _Scene(index_graph(graph), types, float_nodes or {}, _find_first(graph))
    plan = PlacementPlan()
    nodes = [node for node in graph.node if node.domain in ("", "ai.onnx")]
    for node in nodes:
        if node.op_type in WEIGHTED_OPS:
            _plan_weighted(node, scene, plan, placement != "conservative")
    if placement != "conservative":
        for node, shortcut in _find_residuals(nodes, scene):
            if node.output[0] not in scene.float_nodes:
                plan.add(node, Reads((shortcut,)))
    if placement == "fused":
        for node in reversed(nodes):
            _plan_through(node, scene, plan)
    return plan


def _find_first(graph: onnx.GraphProto) -> frozenset[str]:
    first = {value.name for value in graph.input}
    for node in graph.node:
        if node.op_type not in WEIGHTED_OPS and first.intersection(node.input):
            first.update(node.output)
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type in WEIGHTED_OPS or behind.intersection(node.input):
            behind.update(node.output)
    return frozenset(first - behind)


def _plan_weighted(node: onnx.NodeProto, scene: _Scene, plan: PlacementPlan, with_products: bool) -> None:
    left, right = node.input[0], node.input[1]
    if scene.is_activation(left) and scene.is_activation(right):
        if node.op_type == "MatMul" and not with_products:
            plan.kept_float[node.output[0]] = "a product of two activations (placement conservative)"
            return
        reads = Reads((0, 1))
    elif scene.is_activation(left) and scene.is_weight(right):
        reads = Reads((0,), WeightUse(1, right, _weight_axis(node, scene)))
    elif node.op_type == "MatMul" and scene.is_weight(left) and scene.is_activation(right):
        reads = Reads((1,), WeightUse(0, left, None))
    else:
        plan.kept_float[node.output[0]] = "its inputs are not float32 activations and weights"
        return
    reason = scene.float_nodes.get(node.output[0]) or _why_float(node, scene)
    if reason:
        plan.kept_float[node.output[0]] = reason
    else:
        plan.add(node, reads)


def _weight_axis(node: onnx.NodeProto, scene: _Scene) -> int | None:
    rank = len(scene.index.constants[node.input[1]].dims)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        # With groups, axis 1 counts the channels of one group only; TensorRT wants a scale for each channel.
        return 1 if get_int(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if get_int(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def _why_float(node: onnx.NodeProto, scene: _Scene) -> str | None:
    if node.op_type in ("Conv", "ConvTranspose"):
        return _why_float_convolution(node, scene)
    return _why_float_product(node, scene)


def _why_float_convolution(node: onnx.NodeProto, scene: _Scene) -> str | None:
    shape = scene.shape(node.input[1])
    if shape is None or len(shape) < 3 or shape[0] is None or shape[1] is None:
        return "the shape of its weights is not known"
    group = get_int(node, "group", 1)
    channels = (shape[1] * group, shape[0]) if node.op_type == "Conv" else (shape[0], shape[1] * group)
    if min(channels) < _LEAST_CHANNELS and node.input[0] not in scene.first:
        return f"{channels[0]} to {channels[1]} channels; INT8 pays from {_LEAST_CHANNELS} on"
    return None


def _why_float_product(node: onnx.NodeProto, scene: _Scene) -> str | None:
    left, right = scene.shape(node.input[0]), scene.shape(node.input[1])
    if not left or not right or len(left) < 2 or len(right) < 2:
        return "the shapes of its inputs are not known to be matrices"
    is_gemm = node.op_type == "Gemm"
    rows = left[-1] if is_gemm and get_int(node, "transA", 0) else left[-2]
    columns = right[-2] if is_gemm and get_int(node, "transB", 0) else right[-1]
    if rows == 1 or columns == 1:
        return "a product of a matrix and one vector: memory-bound, INT8 does not pay"
    return None


def _find_residuals(nodes: list[onnx.NodeProto], scene: _Scene) -> Iterator[tuple[onnx.NodeProto, int]]:
    depths = _depths(nodes)
    for node in nodes:
        if node.op_type != "Add" or not all(scene.is_activation(name) for name in node.input):
            continue
        if node.input[0] == node.input[1] or not _is_same_shape(node, scene):
            continue
        branches = [position for position in (0, 1) if _is_convolution(node.input[position], scene)]
        if len(branches) == 1:
            yield node, 1 - branches[0]
        elif branches:  # two convolutions: the shallower one is the shortcut
            yield node, 0 if depths[node.input[0]] < depths[node.input[1]] else 1


def _depths(nodes: list[onnx.NodeProto]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for node in nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    return depths


def _is_convolution(name: str, scene: _Scene) -> bool:
    maker = scene.index.producers.get(name)
    return maker is not None and maker.op_type == "Conv" and scene.index.only_reader(name) is not None


def _is_same_shape(node: onnx.NodeProto, scene: _Scene) -> bool:
    shapes = [scene.shape(name) for name in node.input]
    return shapes[0] is None or shapes[1] is None or len(shapes[0]) == len(shapes[1])


def _plan_through(node: onnx.NodeProto, scene: _Scene, plan: PlacementPlan) -> None:
    # From the last node to the first: a reader's input is in the plan before its producer is looked at.
    output = node.output[0]
    if node.op_type not in _THROUGH_OPS or output not in plan.tensors or output in scene.float_nodes:
        return
    positions = [i for i, name in enumerate(node.input) if scene.is_activation(name)]
    if not _flows_in_int8(node) or not positions or (node.op_type == "Concat" and len(positions) < len(node.input)):
        return
    plan.add(node, Reads(tuple(positions)))
    if node.op_type in _SAME_SCALE_OPS or node.op_type == "Resize":
        plan.same_scale.extend((node.input[i], output) for i in positions)


def _flows_in_int8(node: onnx.NodeProto) -> bool:
    rules: dict[str, Callable[[], bool]] = {
        "Resize": lambda: get_attribute(node, "mode", b"nearest") == b"nearest",
        "MaxPool": lambda: len(node.output) == 1,
    }
    return rules.get(node.op_type, lambda: True)()
