"""Which of the nodes with weights, and of the products of two activations, read INT8."""

import onnx

from app.quant.gates import find_gates
from app.quant.nodes import get_int
from app.quant.plan import WEIGHTED_OPS, PlacementPlan, Reads, Scene, WeightUse

#: Below this many channels INT8 convolutions are slower than float ones (first layers excepted).
_LEAST_CHANNELS = 16
_VECTOR = "a product with one vector: memory-bound, INT8 does not pay"
_PRODUCTS = frozenset({"Gemm", "MatMul"})


def plan_weighted(scene: Scene, plan: PlacementPlan, is_conservative: bool) -> None:
    """Add every Conv, ConvTranspose, Gemm and MatMul that is to read INT8; say of the others why they stay float."""
    gates = find_gates(scene)
    for node in scene.nodes:
        if node.op_type not in WEIGHTED_OPS:
            continue
        output, reads = node.output[0], _reads(node, scene)
        reason = (
            scene.float_nodes.get(output)
            or (_why_unfit(node, scene) if reads is None else None)
            or ("it makes a gate from one value a channel: INT8 does not pay" if output in gates else None)
            or _why_float(node, scene, is_conservative)
        )
        if reason is not None or reads is None:
            plan.kept_float[output] = reason or ""
        else:
            plan.add(node, reads)


def _reads(node: onnx.NodeProto, scene: Scene) -> Reads | None:
    left, right = node.input[0], node.input[1]
    if scene.is_activation(left) and scene.is_activation(right) and node.op_type in _PRODUCTS:
        return Reads((0, 1))
    if scene.is_activation(left) and scene.is_weight(right):
        return Reads((0,), WeightUse(1, right, _weight_axis(node, scene)))
    if node.op_type in _PRODUCTS and scene.is_weight(left) and scene.is_activation(right):
        return Reads((1,), WeightUse(0, left, None))
    return None


def _weight_axis(node: onnx.NodeProto, scene: Scene) -> int | None:
    rank = len(scene.index.constants[node.input[1]].dims)
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        # With groups, axis 1 counts the channels of one group only; TensorRT wants a scale for each channel.
        return 1 if get_int(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if get_int(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def _why_unfit(node: onnx.NodeProto, scene: Scene) -> str:
    elements = {scene.types[name].element for name in node.input[:2] if name in scene.types}
    if elements - {onnx.TensorProto.FLOAT}:
        names = ", ".join(sorted(onnx.TensorProto.DataType.Name(element).lower() for element in elements))
        return f"it computes in {names}; export the model in float32"
    if any(name in scene.index.constants and len(scene.index.constants[name].dims) < 2 for name in node.input[:2]):
        return _VECTOR
    if any(name in scene.fixed and name not in scene.index.constants for name in node.input[:2]):
        return "what computes its weights cannot be folded into a constant"
    return "its weights are computed from the inputs, or the type of what it reads is not known"


def _why_float(node: onnx.NodeProto, scene: Scene, is_conservative: bool) -> str | None:
    if node.op_type not in _PRODUCTS:
        return _why_float_convolution(node, scene, is_conservative)
    if is_conservative and all(scene.is_activation(name) for name in node.input[:2]):
        return "a product of two activations (placement conservative)"
    return _why_float_product(node, scene)


def _why_float_convolution(node: onnx.NodeProto, scene: Scene, is_conservative: bool) -> str | None:
    dims = scene.index.constants[node.input[1]].dims
    group = get_int(node, "group", 1)
    channels = (dims[1] * group, dims[0]) if node.op_type == "Conv" else (dims[0], dims[1] * group)
    is_first = node.input[0] in scene.first and not is_conservative
    if min(channels) >= _LEAST_CHANNELS or is_first or (_is_head(node, scene) and not is_conservative):
        return None
    return f"{channels[0]} to {channels[1]} channels; INT8 pays from {_LEAST_CHANNELS} on"


def _is_head(node: onnx.NodeProto, scene: Scene) -> bool:
    # What reads one position a picture is a matrix product, see `app.quant.heads`.
    shape = scene.shape(node.input[0])
    return node.op_type == "Conv" and shape is not None and len(shape) == 4 and shape[2:] == (1, 1)


def _why_float_product(node: onnx.NodeProto, scene: Scene) -> str | None:
    # Of sizes that are not known, none is taken for 1.
    left, right = scene.shape(node.input[0]), scene.shape(node.input[1])
    if any(shape is not None and len(shape) < 2 for shape in (left, right)):
        return _VECTOR
    is_gemm = node.op_type == "Gemm"
    rows = left and (left[-1] if is_gemm and get_int(node, "transA", 0) else left[-2])
    columns = right and (right[-2] if is_gemm and get_int(node, "transB", 0) else right[-1])
    if rows == 1 or columns == 1:
        return _VECTOR
    return None
