"""The INT8 nodes of a Q/DQ model beside what they were in float: what rounding and bias correction can work on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.bias_correction import Detached
from app.quant.gram import Columns, find_columns
from app.quant.int8_nodes import Int8Activation, Int8Node, Int8Weight, find_int8_nodes
from app.quant.nodes import get_int, index_graph

#: A Gram matrix of more columns is not worth its time.
_MOST_COLUMNS = 4608


@dataclass(frozen=True)
class TunableNode:
    """One INT8 node with weights: `node` and `weight` of the float model, the rest of the Q/DQ model."""

    node: onnx.NodeProto
    weight: np.ndarray
    activation: Int8Activation
    stored: Int8Weight

    @property
    def output(self) -> str:
        return self.node.output[0]

    @cached_property
    def columns(self) -> Columns | None:
        """How its inputs become columns; None where its weights are rounded to the nearest."""
        columns = find_columns(self.node, self.weight, self.stored.position)
        if columns is None or columns.length > _MOST_COLUMNS:
            return None
        scales = columns.rows(np.broadcast_to(self.stored.spread_scales(), self.weight.shape))
        return columns if (scales == scales[:, :, :1]).all() else None

    @property
    def is_image_wise(self) -> bool:
        """Whether the position of a value within its tensor matters; else it is a row among rows."""
        return self.node.op_type in ("Conv", "ConvTranspose")

    def detached(self, weight: np.ndarray) -> Detached:
        """Return the node to be run alone with this weight."""
        return Detached(self.node, self.stored.position, weight)


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
        if reason is None and weight is not None:
            tunable.append(TunableNode(node, weight, each.activations[0], each.weight))
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


def store_values(graph: onnx.GraphProto, values: dict[str, np.ndarray]) -> None:
    """Write int8 initializers anew, by name, in place."""
    for tensor in graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name], np.int8), tensor.name))


def portions(nodes: list[TunableNode], budget_bytes: int) -> Iterator[list[TunableNode]]:
    """Yield the nodes in contiguous lists whose Gram matrices fit into so much memory; a list has one node at least."""
    held: list[TunableNode] = []
    size = 0
    for node in nodes:
        own = 8 * node.columns.groups * node.columns.length**2 if node.columns else 0
        if held and size + own > budget_bytes:
            yield held
            held, size = [], 0
        held.append(node)
        size += own
    if held:
        yield held
