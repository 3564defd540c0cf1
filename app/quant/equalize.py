"""Cross-layer equalization: give the channels between two convolutions like ranges in both of their weights.

Source: Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization and Bias Correction
(2019), section 4.1. Channel i of the first is divided by s = sqrt(r1 / r2), and multiplied again in the second, where
r1 and r2 are its largest weights in the two. What lies between must be positively homogeneous: f(s x) = s f(x). Here
every s is the nearest power of two, so that no weight and no product is rounded anew: in float the model computes the
very same outputs. The activations between have other ranges, so they are to be observed on the equalized model.

The first's biases are divided as well, and that is where this leaves the paper. A channel of small weights may be far from
small by its bias: what a BatchNorm of tiny gamma leaves is a constant. Told by its weights alone it would be multiplied, and
one amax holds for all channels of the activation. The paper's remedy (section 4.1.3, high biases) is not exact. So r1 of a
channel is the larger of its weights and its bias, each as a share of the layer's largest: which of the two matters hangs on
what the layer reads, and that is not known here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.channels import channel_amax, spread_of
from app.quant.nodes import Index, Namer, get_int, index_graph
from app.quant.simplify import remove_unused

#: Chains settle from both ends towards the middle; a pair that is like already does not move.
_MOST_SWEEPS = 20
#: A channel is moved by 2^16 at most, of all sweeps together.
_MOST_EXPONENT = 16


@dataclass
class _Conv:
    """A convolution's weights while they are scaled: float32[O, I / group, ...], and float32[O] or None."""

    node: onnx.NodeProto
    weight: np.ndarray
    bias: np.ndarray | None
    is_changed: bool = False

    @property
    def group(self) -> int:
        return get_int(self.node, "group", 1)

    def output_amax(self) -> np.ndarray:
        return channel_amax(self.weight, 0)

    def output_range(self) -> np.ndarray:
        weights = self.output_amax()
        biases = np.zeros(weights.size) if self.bias is None else np.abs(self.bias).astype(np.float64)
        return np.maximum(weights, biases * (weights.max(initial=0.0) / (biases.max(initial=0.0) or 1.0)))

    def input_amax(self) -> np.ndarray:
        grouped = self._by_group()
        return np.abs(grouped).max(axis=(1, 3), initial=0.0).astype(np.float64).ravel()

    def divide_outputs(self, exponents: np.ndarray) -> None:
        self.weight = np.ldexp(self.weight, -exponents.reshape(-1, *[1] * (self.weight.ndim - 1)))
        self.bias = None if self.bias is None else np.ldexp(self.bias, -exponents)
        self.is_changed = True

    def multiply_inputs(self, exponents: np.ndarray) -> None:
        grouped = self._by_group()
        scaled = np.ldexp(grouped, exponents.reshape(grouped.shape[0], 1, grouped.shape[2], 1))
        self.weight = scaled.reshape(self.weight.shape)
        self.is_changed = True

    def _by_group(self) -> np.ndarray:
        outputs, inputs = self.weight.shape[:2]
        return self.weight.reshape(self.group, outputs // self.group, inputs, -1)


@dataclass
class _Pair:
    first: _Conv
    second: _Conv
    ratio: float | None
    moved: np.ndarray  # int32[channels]: by which power of two so far


def equalize_model(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Equalize every chain of a prepared model, in place; return a row for each pair, as JSON values.

    first, second: names of the nodes · channels: between them · ratio_before, ratio_after: amax of the first's largest
    output channel over that of its smallest live one. The outputs stay what they are, bit for bit, but for weights that
    become denormal.
    """
    graph = model.graph
    pairs = _find_pairs(index_graph(graph), graph)
    for _ in range(_MOST_SWEEPS):
        if not sum(_equalize(pair) for pair in pairs):  # every one of them, not the first that moves
            break
    _store(graph, {id(conv): conv for pair in pairs for conv in (pair.first, pair.second)}.values())
    remove_unused(graph)
    return [_row(pair) for pair in pairs]


def _equalize(pair: _Pair) -> bool:
    exponents = _wanted_exponents(pair)
    if not exponents.any():
        return False
    pair.moved += exponents
    pair.first.divide_outputs(exponents)
    pair.second.multiply_inputs(exponents)
    return True


def _wanted_exponents(pair: _Pair) -> np.ndarray:
    before, after = pair.first.output_range(), pair.second.input_amax()
    live = (pair.first.output_amax() > 0) & (after > 0)
    logs = np.zeros(before.size)
    np.log2(np.divide(before, after, out=np.ones(before.size), where=live), out=logs, where=live)
    wanted = np.rint(logs / 2).astype(np.int32)
    return np.clip(wanted, -_MOST_EXPONENT - pair.moved, _MOST_EXPONENT - pair.moved)


def _find_pairs(index: Index, graph: onnx.GraphProto) -> list[_Pair]:
    convs = {node.output[0]: conv for node in graph.node if (conv := _conv(node, index)) is not None}
    pairs = []
    for first in convs.values():
        reader = _next_convolution(first.node, index)
        second = convs.get(reader.output[0]) if reader is not None else None
        if second is not None and second.weight.shape[1] * second.group == first.weight.shape[0]:
            channels = first.weight.shape[0]
            pairs.append(_Pair(first, second, spread_of(first.output_amax()), np.zeros(channels, np.int32)))
    return pairs


def _conv(node: onnx.NodeProto, index: Index) -> _Conv | None:
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return None
    weight = index.array(node.input[1])
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = index.array(node.input[2]) if has_bias else None
    if weight is None or weight.dtype != np.float32 or weight.ndim < 3 or (has_bias and bias is None):
        return None
    return _Conv(node, weight, bias) if np.isfinite(weight).all() else None


def _next_convolution(node: onnx.NodeProto, index: Index) -> onnx.NodeProto | None:
    name = node.output[0]
    reader = index.only_reader(name)
    while reader is not None and _is_homogeneous(reader, index):
        name = reader.output[0]
        reader = index.only_reader(name)
    reads_once = reader is not None and reader.op_type == "Conv" and list(reader.input).count(name) == 1
    return reader if reads_once and reader is not None and reader.input[0] == name else None


def _is_homogeneous(node: onnx.NodeProto, index: Index) -> bool:
    if node.op_type in ("Relu", "LeakyRelu"):
        return True
    if node.op_type != "Clip":
        return False
    low, high = (_bound(node, place, index) for place in (1, 2))
    return low in (None, 0.0, -np.inf) and high in (None, np.inf)


def _bound(node: onnx.NodeProto, place: int, index: Index) -> float | None:
    if len(node.input) <= place or not node.input[place]:
        return None
    value = index.array(node.input[place])
    return np.nan if value is None else float(value.reshape(()))  # nan: computed, so it may be any number


def _store(graph: onnx.GraphProto, convs: Any) -> None:
    namer = Namer(graph)
    for conv in convs:
        if not conv.is_changed:
            continue
        for place, value in ((1, conv.weight), (2, conv.bias)):
            if value is not None:
                name = namer.name(f"{conv.node.input[place]}_equalized")
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
                conv.node.input[place] = name


def _row(pair: _Pair) -> dict[str, Any]:
    names = {place: conv.node.name or conv.node.output[0] for place, conv in (("first", pair.first), ("second", pair.second))}
    after = spread_of(pair.first.output_amax())
    return names | {"channels": int(pair.first.weight.shape[0]), "ratio_before": pair.ratio, "ratio_after": after}
