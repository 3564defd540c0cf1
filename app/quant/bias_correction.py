"""Fold the expected error of an INT8 node into its bias.

Source: Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization and Bias Correction
(2019), appendix D: the mean error of each output channel, measured on images. Positions where the activation behind the
node cuts off either output, float or INT8, to the same value are left out: there the error does not matter, and a
background that fills most of an image would decide for the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.quant.nodes import Index, Namer, get_attribute, index_graph, replace_nodes

#: A mean of fewer errors is left alone.
_FEWEST_POSITIONS = 16


@dataclass(frozen=True)
class Detached:
    """A node to be run alone: its constant input `position` is `weight`, the other one is fed as `output`_input."""

    node: onnx.NodeProto
    position: int
    weight: np.ndarray
    bias: np.ndarray | None

    @property
    def given(self) -> str:
        return f"{self.node.output[0]}_input"


def detach_nodes(nodes: Sequence[Detached], opset_imports: Iterable[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """Return a model of these nodes alone, side by side; outputs keep their names."""
    copies, constants = [], []
    for each in nodes:
        inputs = [each.given, each.given]
        inputs[each.position] = f"{each.given}_weight"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(each.weight, np.float32), inputs[each.position]))
        if each.bias is not None:
            inputs.append(f"{each.given}_bias")
            constants.append(numpy_helper.from_array(np.ascontiguousarray(each.bias, np.float32), inputs[2]))
        copy = helper.make_node(each.node.op_type, inputs, [each.node.output[0]])
        copy.attribute.extend(each.node.attribute)
        copies.append(copy)
    given = [helper.make_tensor_value_info(each.given, TensorProto.FLOAT, None) for each in nodes]
    made = [helper.make_tensor_value_info(each.node.output[0], TensorProto.FLOAT, None) for each in nodes]
    graph = helper.make_graph(copies, "detached", given, made, constants)
    return helper.make_model(graph, opset_imports=list(opset_imports), ir_version=8)


class ErrorSum:
    """Adds up by how much the INT8 outputs of a node are too small, channel by channel."""

    def __init__(self, op_type: str, window: tuple[float, float]) -> None:
        self._has_channels_second = op_type in ("Conv", "ConvTranspose")
        self._window = window
        self._total = self._count = np.zeros(())

    def add(self, wanted: np.ndarray, found: np.ndarray) -> None:
        """Count the float and the INT8 outputs of one batch."""
        others = tuple(i for i in range(wanted.ndim) if i != (1 if self._has_channels_second else wanted.ndim - 1))
        low, high = self._window
        matters = ((wanted > low) & (wanted < high)) | ((found > low) & (found < high))
        errors = (wanted - found) * matters
        self._total = self._total + errors.sum(axis=others, dtype=np.float64)
        self._count = self._count + matters.sum(axis=others, dtype=np.int64)

    def mean(self) -> np.ndarray:
        """Return float64[channels]; of a channel with few positions that matter 0, for they tell little."""
        return np.where(self._count >= _FEWEST_POSITIONS, self._total / np.maximum(self._count, 1), 0.0)


def has_plain_bias(node: onnx.NodeProto, index: Index) -> bool:
    """Return whether node has no bias, or a constant vector that counts as it is."""
    if len(node.input) < 3 or not node.input[2]:
        return True
    bias = index.array(node.input[2])
    return bias is not None and bias.ndim <= 1 and get_attribute(node, "beta", 1.0) == 1.0


def add_to_biases(graph: onnx.GraphProto, corrections: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Add float64[channels] to the outputs of nodes, by first output, in place; return which could not be, and why.

    A Conv, ConvTranspose or Gemm has a bias or gets one; a MatMul gets an Add behind it, which runtimes fuse. A bias is
    written anew for each node, for another may read the old one.
    """
    index, namer = index_graph(graph), Namer(graph)
    written: list[onnx.NodeProto] = []
    refused: dict[str, str] = {}
    for node in graph.node:
        correction = corrections.get(node.output[0]) if node.output else None
        written.append(node)
        if correction is None:
            continue
        if node.op_type == "MatMul":
            written.append(_added_behind(graph, node, correction, namer))
            continue
        if not has_plain_bias(node, index):
            refused[node.output[0]] = "its bias is computed, scaled, or no vector"
            continue
        bias = index.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        value = correction if bias is None else bias.astype(np.float64) + correction
        name = _stored(graph, namer.name(f"{node.output[0]}_bias_corrected"), value)
        del node.input[2:]
        node.input.append(name)
    replace_nodes(graph, written)
    return refused


def _stored(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name


def _added_behind(graph: onnx.GraphProto, node: onnx.NodeProto, correction: np.ndarray, namer: Namer) -> onnx.NodeProto:
    output = node.output[0]
    node.output[0] = namer.name(f"{output}_uncorrected")
    name = _stored(graph, namer.name(f"{output}_bias_corrected"), correction)
    return helper.make_node("Add", [node.output[0], name], [output], name=namer.name(f"{output}_BiasCorrection"))
