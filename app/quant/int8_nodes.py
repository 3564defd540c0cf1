"""Read a Q/DQ model: which nodes read INT8, from which tensors, with which weights and scales."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from app.quant.nodes import Index, get_int, index_graph

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Int8Activation:
    """Input `position` of a node is `tensor` behind a Q/DQ pair of this scale and zero point."""

    position: int
    tensor: str
    scale: np.float32
    zero_point: int

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Return values as the node reads them: rounded half to even, saturated at what int8 holds."""
        least = -128 - self.zero_point
        return np.clip(np.rint(values / self.scale), least, least + 255) * self.scale


@dataclass(frozen=True)
class Int8Weight:
    """Input `position` of a node is the int8 initializer `stored` behind a DequantizeLinear along `axis`."""

    position: int
    stored: str
    values: np.ndarray
    scales: np.ndarray
    axis: int

    def spread_scales(self) -> np.ndarray:
        """Return the scales as float64, shaped so that they broadcast over the values."""
        if self.scales.ndim == 0:
            return self.scales.astype(np.float64)
        return self.scales.astype(np.float64).reshape([-1 if i == self.axis else 1 for i in range(self.values.ndim)])


@dataclass(frozen=True)
class Int8Node:
    """A node that reads INT8; it is known by its first output, as in the float model."""

    node: onnx.NodeProto
    activations: tuple[Int8Activation, ...]
    weight: Int8Weight | None

    @property
    def output(self) -> str:
        return self.node.output[0]


def find_int8_nodes(graph: onnx.GraphProto) -> list[Int8Node]:
    """Return the nodes of a Q/DQ graph that read what a DequantizeLinear gives, in graph order."""
    index = index_graph(graph)
    found = []
    for node in graph.node:
        if node.op_type in (_QUANTIZE, _DEQUANTIZE):
            continue
        activations = tuple(_activations(node, index))
        weight = _weight(node, index)
        if activations or weight is not None:
            found.append(Int8Node(node, activations, weight))
    return found


def _activations(node: onnx.NodeProto, index: Index) -> Iterator[Int8Activation]:
    for position, name in enumerate(node.input):
        dequantize = _made_by(name, _DEQUANTIZE, index)
        quantize = _made_by(dequantize.input[0], _QUANTIZE, index) if dequantize is not None else None
        parameters = [index.array(name) for name in quantize.input[1:3]] if quantize is not None else []
        if quantize is not None and all(value is not None and value.size == 1 for value in parameters):
            scale, zero_point = (value.reshape(()) for value in parameters if value is not None)
            yield Int8Activation(position, quantize.input[0], np.float32(scale), int(zero_point))


def _weight(node: onnx.NodeProto, index: Index) -> Int8Weight | None:
    for position, name in enumerate(node.input[:2]):
        dequantize = _made_by(name, _DEQUANTIZE, index)
        if dequantize is None:
            continue
        values, scales = index.array(dequantize.input[0]), index.array(dequantize.input[1])
        if values is not None and scales is not None:
            return Int8Weight(position, dequantize.input[0], values, scales, get_int(dequantize, "axis", 1))
    return None


def _made_by(name: str, op_type: str, index: Index) -> onnx.NodeProto | None:
    maker = index.producers.get(name)
    return maker if maker is not None and maker.op_type == op_type else None
