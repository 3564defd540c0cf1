"""Count multiply-adds of the nodes with weights, for one image."""

from collections.abc import Mapping
from math import prod

import onnx

from app.quant.nodes import get_int
from app.quant.tensor_types import Shape, TensorType, infer_types

#: Height and width of a picture where the model leaves them open: what counts is how nodes compare.
ASSUMED_SIZE = 320


def infer_sizes(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> Mapping[str, TensorType]:
    """Return types to count multiply-adds by: those given, or with open sizes of the inputs taken for ASSUMED_SIZE."""
    inputs = (types[value.name] for value in model.graph.input)
    is_open = any(known.shape is None or None in known.shape[1:] for known in inputs)
    return infer_types(model, assumed_size=ASSUMED_SIZE) if is_open else types


def count_multiply_adds(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> int | None:
    """Return the multiply-adds of a Conv, ConvTranspose, Gemm or MatMul; a first dimension not known counts as 1.

    None where another dimension is not known.
    """
    data, weight, output = (_sizes(types, name) for name in (node.input[0], node.input[1], node.output[0]))
    if not weight or not output:
        return None
    if node.op_type == "Conv":
        return prod(output) * prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return prod(data) * prod(weight[1:]) if data else None
    # Of a product the second factor tells the inner size: behind a Reshape the first one's is often unknown.
    inner = weight[-1] if node.op_type == "Gemm" and get_int(node, "transB", 0) else weight[0 if len(weight) == 1 else -2]
    return prod(output) * inner


def _sizes(types: Mapping[str, TensorType], name: str) -> tuple[int, ...] | None:
    known = types.get(name)
    shape: Shape | None = None if known is None else known.shape
    if not shape:
        return None
    first = 1 if shape[0] is None else shape[0]
    rest = [size for size in shape[1:] if size is not None]
    return (first, *rest) if len(rest) == len(shape) - 1 else None
