"""Compute what is constant in a graph: weights behind Identity or Cast, shape arithmetic on static shapes."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from app.errors import ModelInvalidGraph
from app.quant.nodes import Index, find_subgraphs, get_attribute, get_int, index_graph, op_of, replace_nodes
from app.quant.tensor_types import TensorType, infer_types

#: A folded tensor has at most this many elements, unless its inputs together have as many (Transpose of a weight).
_LARGEST_GROWTH = 1 << 20
_MOST_ROUNDS = 4

#: Outputs are never larger than the inputs together.
_SHRINKING = frozenset(
    """
    Cast CastLike Concat DepthToSpace Flatten GatherElements Identity Reshape Shape Size Slice SpaceToDepth Split Squeeze
    Transpose Trilu Unsqueeze
    Abs Ceil Clip Cos CumSum Elu Erf Exp Floor HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Neg Not Reciprocal Relu
    Round Sigmoid Sign Sin Softmax Softplus Sqrt Tanh
    ArgMax ArgMin LpNormalization ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare
    """.split()
)
#: Outputs have the shape that the inputs' shapes broadcast to.
_BROADCASTING = frozenset("Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Or Pow Sub Where".split())


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace nodes of the main graph that are constant by initializers, in place.

    Only operators whose output size is bounded before they run are computed; what would grow past 2^20 elements stays.
    """
    for _ in range(_MOST_ROUNDS):
        folded = _fold_once(model)
        if not folded:
            return


def _fold_once(model: onnx.ModelProto) -> bool:
    graph = model.graph
    index = index_graph(graph)
    types = infer_types(model) if any(op_of(node) == "Shape" for node in graph.node) else {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        values = _static_shape(node, index, types) or _computed(node, index, model)
        if values is None:
            kept.append(node)
            continue
        for name, value in zip(node.output, values, strict=False):
            if name:
                tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
                index.constants[name] = tensor
                graph.initializer.append(tensor)
    folded = len(kept) < len(graph.node)
    if folded:
        replace_nodes(graph, kept)
    return folded


def _static_shape(node: onnx.NodeProto, index: Index, types: dict[str, TensorType]) -> list[np.ndarray] | None:
    if op_of(node) == "Gather":
        return _picked_sizes(node, index, types)
    if op_of(node) != "Shape":
        return None
    sizes = _sizes(node, types)
    return None if sizes is None or None in sizes else [np.array(sizes, np.int64)]


def _picked_sizes(node: onnx.NodeProto, index: Index, types: dict[str, TensorType]) -> list[np.ndarray] | None:
    shape, picks = index.producers.get(node.input[0]), index.array(node.input[1])
    if shape is None or op_of(shape) != "Shape" or picks is None or get_int(node, "axis", 0) != 0:
        return None
    sizes = _sizes(shape, types)
    if sizes is None or any(not -len(sizes) <= pick < len(sizes) for pick in picks.flat):
        return None
    picked = [sizes[pick] for pick in picks.flat]
    return None if None in picked else [np.array(picked, np.int64).reshape(picks.shape)]


def _sizes(shape: onnx.NodeProto, types: dict[str, TensorType]) -> tuple[int | None, ...] | None:
    known = types.get(shape.input[0])
    if known is None or known.shape is None:
        return None
    end = get_attribute(shape, "end")
    return known.shape[slice(get_int(shape, "start", 0), end if isinstance(end, int) else None)]


def _computed(node: onnx.NodeProto, index: Index, model: onnx.ModelProto) -> list[np.ndarray] | None:
    if not op_of(node) or any(True for _ in find_subgraphs(node)):
        return None
    names = [name for name in node.input if name]
    if any(name not in index.constants for name in names) or not (names or node.op_type == "Constant"):
        return None
    if any(name in index.protected for name in node.output):
        return None  # a graph output must stay a node's output
    inputs = {name: numpy_helper.to_array(index.constants[name]) for name in names}
    ordered = [inputs[name] if name else None for name in node.input]
    if not _is_bounded(node, ordered):
        return None
    return _evaluate(node, inputs, model)


def _is_bounded(node: onnx.NodeProto, inputs: list[np.ndarray | None]) -> bool:
    present = [value for value in inputs if value is not None]
    allowed = max(_LARGEST_GROWTH, sum(value.size for value in present))
    if node.op_type == "Constant" or node.op_type in _SHRINKING:
        return True
    if node.op_type in _BROADCASTING:
        return _broadcast_elements(present) <= allowed
    count = _GROWING.get(node.op_type)
    return count is not None and count(present) <= allowed


def _broadcast_elements(inputs: list[np.ndarray]) -> float:
    try:
        return float(np.prod(np.broadcast_shapes(*(value.shape for value in inputs)), dtype=np.float64))
    except ValueError as error:
        raise ModelInvalidGraph(reason=f"constants do not broadcast: {error}") from error


def _product(values: np.ndarray) -> float:
    return float(np.prod(values, dtype=np.float64))


_GROWING: dict[str, Callable[[list[np.ndarray]], float]] = {
    "ConstantOfShape": lambda inputs: _product(inputs[0]),
    "Expand": lambda inputs: inputs[0].size * max(1.0, _product(inputs[1])),
    "Tile": lambda inputs: inputs[0].size * _product(inputs[1]),
    "Range": lambda inputs: abs(float(inputs[1]) - float(inputs[0])) / max(abs(float(inputs[2])), 1e-9),
    "Gather": lambda inputs: float(inputs[0].size) * max(1, inputs[1].size),
}


def _evaluate(node: onnx.NodeProto, inputs: dict[str, np.ndarray], model: onnx.ModelProto) -> list[np.ndarray] | None:
    if node.op_type == "Constant":
        return _constant(node)
    from onnx.reference import ReferenceEvaluator  # 12 MB, which most models do not need

    anything = [onnx.helper.make_empty_tensor_value_info(name) for name in inputs]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "constant", anything, outputs)
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(single).run(None, inputs)
    except (ValueError, IndexError, TypeError, RuntimeError, NotImplementedError):
        return None  # the node stays: the runtime that gets it says what is wrong with it
    arrays = [value for value in values if isinstance(value, np.ndarray | np.generic)]
    return [np.asarray(value) for value in arrays] if len(arrays) == len(values) else None


def _constant(node: onnx.NodeProto) -> list[np.ndarray] | None:
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value" and isinstance(value, onnx.TensorProto):
        return [numpy_helper.to_array(value)]
    if attribute.name in ("value_float", "value_floats"):
        return [np.array(value, np.float32)]
    if attribute.name in ("value_int", "value_ints"):
        return [np.array(value, np.int64)]
    return None
