"""The INT8 nodes of a Q/DQ model beside what they were in float: what rounding and bias correction can work on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.bias_correction import Detached, has_plain_bias
from app.quant.gram import Columns, find_columns
from app.quant.int8_nodes import Int8Activation, Int8Node, Int8Weight, find_int8_nodes
from app.quant.nodes import Index, get_int, index_graph

#: A Gram matrix of more columns is not worth its time.
_MOST_COLUMNS = 4608
#: Gram matrices, and nodes whose inputs and outputs are held for a batch, in one pass over the images.
_MOST_GRAM_BYTES = 512 << 20
_MOST_AT_ONCE = 16


@dataclass(frozen=True)
class TunableNode:
    """One INT8 node with weights: `node`, `weight` and `bias` of the float model, the rest of the Q/DQ model.

    `window`: between which bounds an output makes a difference; an activation behind the node may cut it there.
    """

    node: onnx.NodeProto
    weight: np.ndarray
    bias: np.ndarray | None
    window: tuple[float, float]
    activation: Int8Activation
    stored: Int8Weight

    @property
    def output(self) -> str:
        return self.node.output[0]

    @property
    def spread_scales(self) -> np.ndarray:
        """The weight's scales, float64 in its shape."""
        return np.broadcast_to(self.stored.spread_scales(), self.weight.shape)

    @cached_property
    def digest(self) -> str:
        """The sha256 of all that is learned from, but for the activations: alike in two models that exclude other nodes."""
        arrays = (self.weight, self.bias, self.activation.scale, self.stored.values, self.stored.scales)
        content = hashlib.sha256(self.node.SerializeToString(deterministic=True))
        for array in arrays:
            content.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        content.update(repr((self.window, self.activation.tensor, self.activation.zero_point)).encode())
        return content.hexdigest()

    @cached_property
    def columns(self) -> Columns | None:
        """How its inputs become columns; None where its weights are rounded to the nearest."""
        columns = find_columns(self.node, self.weight, self.stored.position)
        if columns is None or columns.length > _MOST_COLUMNS:
            return None
        scales = columns.rows(self.spread_scales)
        return columns if (scales == scales[:, :, :1]).all() else None

    def detached(self, values: np.ndarray) -> Detached:
        """Return the node to be run alone with these INT8 weights."""
        return Detached(self.node, self.stored.position, values * self.spread_scales, self.bias)


def find_tunable(float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[list[TunableNode], dict[str, str]]:
    """Return the INT8 nodes that can be tuned, in graph order, and the first outputs of those that cannot, each with why.

    `quantized` has the nodes of `float_model` under the same first outputs.
    """
    index = index_graph(float_model.graph)
    tunable, refused = [], {}
    for each in find_int8_nodes(quantized.graph):
        node = index.producers.get(each.output)
        if each.weight is None or node is None:
            continue
        weight = index.array(node.input[each.weight.position])
        reason = _why_not(each, node, weight)
        if reason is None and not has_plain_bias(node, index):
            reason = "its bias is computed, scaled, or no vector"
        if reason is None and weight is not None:
            bias = index.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            tunable.append(TunableNode(node, weight, bias, _window(node, index), each.activations[0], each.weight))
        else:
            refused[each.output] = reason or "its weights are computed"
    return tunable, refused


def _why_not(each: Int8Node, node: onnx.NodeProto, weight: np.ndarray | None) -> str | None:
    assert each.weight is not None
    if weight is None or weight.shape != each.weight.values.shape:
        return "its weights are computed"
    if len(each.activations) != 1:
        return "its activation stays float"
    if node.op_type in ("Conv", "ConvTranspose"):
        return None
    if each.weight.position != 1 or weight.ndim != 2 or get_int(node, "transA", 0):
        return "its outputs do not lie along the last axis"
    return None


def _window(node: onnx.NodeProto, index: Index) -> tuple[float, float]:
    reader = index.only_reader(node.output[0])
    if reader is None or reader.op_type not in ("Relu", "Clip"):
        return -np.inf, np.inf
    if reader.op_type == "Relu":
        return 0.0, np.inf
    bounds = [index.array(name) if name else None for name in [*reader.input[1:], "", ""][:2]]
    low, high = (None if bound is None or bound.size != 1 else float(bound.reshape(())) for bound in bounds)
    return -np.inf if low is None else low, np.inf if high is None else high


def store_values(graph: onnx.GraphProto, values: dict[str, np.ndarray]) -> None:
    """Write int8 initializers anew, by name, in place."""
    for tensor in graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name], np.int8), tensor.name))


def portions(nodes: list[TunableNode]) -> Iterator[list[TunableNode]]:
    """Yield the nodes in contiguous lists, so that what is held of a list at a time stays within bounds."""
    held: list[TunableNode] = []
    size = 0
    for node in nodes:
        own = 8 * node.columns.groups * node.columns.length**2 if node.columns else 0
        if held and (size + own > _MOST_GRAM_BYTES or len(held) == _MOST_AT_ONCE):
            yield held
            held, size = [], 0
        held.append(node)
        size += own
    if held:
        yield held
