"""Q/DQ in fp8 (E4M3) instead of int8: the same pairs, with a float of 8 bits between them.

One scale a tensor, also of weights, amax / 448; the largest number that E4M3 has is 448. Matrix products alone have it: of
these TensorRT-RTX's documentation says that they are supported, and TensorRT 10.6 computed convolutions in fp8 wrongly
(47 % accuracy on digits) or in fp16 behind casts (eight times as long as fp16 alone). Formats: Micikevicius et al., FP8
Formats for Deep Learning (2022); ONNX's FLOAT8E4M3FN.
"""

from collections.abc import Mapping
from typing import TypeVar

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.int8_nodes import find_int8_nodes
from app.quant.nodes import Index, Namer, index_graph, op_of
from app.quant.opset import FLOAT16_OPSET, raise_opset
from app.quant.weights import round_scales
from app.spec import FloatType

#: The largest numbers that int8 and E4M3 hold.
_INT8, _E4M3 = 127, 448
_TYPE = ml_dtypes.float8_e4m3fn

_Scale = TypeVar("_Scale", np.float32, np.ndarray)


def why_not_float8(node: onnx.NodeProto) -> str | None:
    """Return why a node of a model with fp8 stays float, None for a matrix product."""
    return None if op_of(node) in ("Gemm", "MatMul") else "fp8 is for matrix products alone in TensorRT"


def float8_from_int8(quantized: onnx.ModelProto, float_model: onnx.ModelProto, float_type: FloatType) -> onnx.ModelProto:
    """Return a symmetric int8 Q/DQ model with fp8 in the place of int8; weights are rounded anew from those of float_model,
    which has the same nodes with weights under the same first outputs.

    Opset 19 or newer.
    """
    model = raise_opset(quantized, FLOAT16_OPSET)
    index, floats, namer = index_graph(model.graph), index_graph(float_model.graph), Namer(model.graph)
    arrays: dict[str, np.ndarray] = {}
    weights: list[str] = []
    for each in find_int8_nodes(model.graph):
        if each.weight is not None:
            weight = floats.array(floats.producers[each.output].input[each.weight.position])
            assert weight is not None
            dequantize = index.producers[each.node.input[each.weight.position]]
            arrays |= _weight(dequantize, weight, float_type)
            del dequantize.attribute[:]  # the axis of its scales
            weights.append(dequantize.input[0])
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            arrays |= _parameters(node, index, arrays)
    _replace(model.graph, arrays, {name: namer.name(f"{name.removesuffix('_int8')}_fp8") for name in weights})
    return model


def _replace(graph: onnx.GraphProto, arrays: Mapping[str, np.ndarray], renamed: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], renamed.get(tensor.name, tensor.name)))
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            node.input[0] = renamed.get(node.input[0], node.input[0])


def _weight(node: onnx.NodeProto, weight: np.ndarray, float_type: FloatType) -> dict[str, np.ndarray]:
    """Return the arrays of a weight's DequantizeLinear by their names: fp8 values, their scale, the zero point."""
    amax = np.float64(np.abs(weight).max(initial=0.0))
    scale = round_scales(np.array(amax / _E4M3 if amax > 0 else 1.0), float_type)
    values = np.clip(weight / scale.astype(np.float64), -_E4M3, _E4M3).astype(_TYPE)
    return {node.input[0]: values, node.input[1]: scale, node.input[2]: np.zeros((), _TYPE)}


def scale_of_float8(scale: _Scale) -> _Scale:
    """Return the float32 scale, or scales, of fp8 for the range that an int8 scale has."""
    return (scale.astype(np.float64) * _INT8 / _E4M3).astype(np.float32)


def _parameters(node: onnx.NodeProto, index: Index, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scale and zero point of a node by their names, but for those that are known already."""
    scale, zero_point = (index.array(name) for name in node.input[1:3])
    assert scale is not None
    assert zero_point is not None
    arrays = {node.input[1]: scale_of_float8(scale), node.input[2]: np.zeros(zero_point.shape, _TYPE)}
    return {name: value for name, value in arrays.items() if name not in known}
