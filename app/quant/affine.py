"""Fold what scales and shifts channels into the weights before it: BatchNormalization; Mul, Div, Add, Sub by constants."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.nodes import Index, Namer, get_attribute, get_int, index_graph, op_of, replace_nodes, set_attribute

_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class _Affine:
    """y = x * gain + shift; float64[channels], or float64[1] for all of them."""

    gain: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class _Weighted:
    """A Conv, ConvTranspose or Gemm with constant weights: float32, and bias float64[channels]."""

    node: onnx.NodeProto
    weight: np.ndarray
    bias: np.ndarray

    @property
    def rank(self) -> int:
        """Of its output."""
        return self.weight.ndim

    def scaled(self, gain: np.ndarray) -> np.ndarray:
        """Return the weight with each output channel multiplied, in float64."""
        if self.node.op_type == "Gemm":
            return self.weight * (gain.reshape(-1, 1) if get_int(self.node, "transB", 0) else gain)
        ones = [1] * (self.rank - 2)
        if self.node.op_type == "Conv":
            return self.weight * gain.reshape(-1, 1, *ones)
        group = get_int(self.node, "group", 1)
        grouped = self.weight.reshape(group, -1, *self.weight.shape[1:])
        return (grouped * gain.reshape(group, 1, -1, *ones)).reshape(self.weight.shape)


def fold_affine(graph: onnx.GraphProto) -> None:
    """Fold each BatchNormalization and each constant gain or shift of channels into the node with weights before it.

    In place, where that node is a Conv, ConvTranspose or Gemm which nothing else reads; its output takes the folded
    node's name. Gemm loses alpha and beta. w' = w * gain, b' = b * gain + shift, in float64, stored as float32; for
    BatchNormalization gain = gamma / sqrt(variance + epsilon), shift = beta - mean * gain.
    """
    index, namer = index_graph(graph), Namer(graph)
    makers = dict(index.producers)
    gone: set[int] = set()
    for position, node in enumerate(graph.node):
        if op_of(node) == "Gemm":
            _make_plain(graph, node, index, namer)
        source = _find_source(node, index)
        weighted = _read_weighted(makers[source], index) if source in makers and index.only_reader(source) else None
        affine = _read_affine(node, weighted, index) if weighted is not None else None
        if weighted is not None and affine is not None:
            _store(graph, weighted, affine, node.output[0], namer)
            index.constants.update((tensor.name, tensor) for tensor in graph.initializer[-2:])
            makers[node.output[0]] = weighted.node
            gone.add(position)
    if gone:
        replace_nodes(graph, [node for position, node in enumerate(graph.node) if position not in gone])


def _make_plain(graph: onnx.GraphProto, gemm: onnx.NodeProto, index: Index, namer: Namer) -> None:
    for name, position in (("alpha", 1), ("beta", 2)):
        by = get_attribute(gemm, name, 1.0)
        value = index.array(gemm.input[position]) if position < len(gemm.input) else np.zeros((), np.float32)
        if by == 1.0 or value is None or value.dtype != np.float32:
            continue
        if position < len(gemm.input):
            stored = namer.name(f"{gemm.input[position]}_{name}")
            graph.initializer.append(numpy_helper.from_array(value * np.float32(by), stored))  # type: ignore[arg-type]
            index.constants[stored] = graph.initializer[-1]
            gemm.input[position] = stored
        set_attribute(gemm, name, 1.0)


def _find_source(node: onnx.NodeProto, index: Index) -> str | None:
    """Return the input of node that is scaled and shifted, if node is of that kind."""
    if op_of(node) == "BatchNormalization":
        is_training = get_int(node, "training_mode", 0) or any(node.output[1:])
        return None if is_training else node.input[0]
    computed = [name for name in node.input if name not in index.constants]
    return computed[0] if op_of(node) in _ARITHMETIC and len(computed) == 1 else None


def _read_weighted(node: onnx.NodeProto, index: Index) -> _Weighted | None:
    if op_of(node) not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    weight = index.array(node.input[1])
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = index.array(node.input[2]) if has_bias else np.zeros((), np.float32)
    if weight is None or bias is None or weight.dtype != np.float32 or bias.dtype != np.float32:
        return None
    if op_of(node) == "Gemm" and (get_attribute(node, "alpha", 1.0) != 1.0 or get_attribute(node, "beta", 1.0) != 1.0):
        return None
    channels = _channels(node, weight)
    is_row = bias.size in (1, channels) and bias.shape[:-1] in ((), (1,))
    return _Weighted(node, weight, np.broadcast_to(bias.ravel(), channels).astype(np.float64)) if is_row else None


def _channels(node: onnx.NodeProto, weight: np.ndarray) -> int:
    if op_of(node) == "ConvTranspose":
        return weight.shape[1] * get_int(node, "group", 1)
    return weight.shape[1 if op_of(node) == "Gemm" and not get_int(node, "transB", 0) else 0]


def _read_affine(node: onnx.NodeProto, weighted: _Weighted, index: Index) -> _Affine | None:
    is_norm = op_of(node) == "BatchNormalization"
    affine = _read_batchnorm(node, weighted, index) if is_norm else _read_arithmetic(node, weighted, index)
    is_usable = affine is not None and np.isfinite(affine.gain).all() and np.isfinite(affine.shift).all()
    return affine if is_usable else None


def _read_batchnorm(node: onnx.NodeProto, weighted: _Weighted, index: Index) -> _Affine | None:
    arrays = [array.astype(np.float64) for name in node.input[1:5] if (array := index.array(name)) is not None]
    if len(arrays) < 4 or any(array.size != weighted.bias.size for array in arrays):
        return None
    gamma, beta, mean, variance = arrays
    epsilon = get_attribute(node, "epsilon", 1e-5)
    with np.errstate(all="ignore"):
        gain = gamma / np.sqrt(variance + (epsilon if isinstance(epsilon, float) else 1e-5))
        return _Affine(gain, beta - mean * gain)


def _read_arithmetic(node: onnx.NodeProto, weighted: _Weighted, index: Index) -> _Affine | None:
    is_second = node.input[1] in index.constants
    value = _by_channel(index.array(node.input[1 if is_second else 0]), weighted)
    if value is None:
        return None
    one, zero = np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        forms = {"Add": _Affine(one, value), "Mul": _Affine(value, zero), "Sub": _Affine(-one, value)}
        if is_second:
            forms |= {"Sub": _Affine(one, -value), "Div": _Affine(1 / value, zero)}
    return forms.get(node.op_type)


def _by_channel(value: np.ndarray | None, weighted: _Weighted) -> np.ndarray | None:
    """Return a constant as float64[channels] or float64[1], None where it differs within a channel."""
    if value is None or value.dtype != np.float32 or value.ndim > weighted.rank:
        return None
    shape = (1,) * (weighted.rank - value.ndim) + value.shape
    is_flat = shape[0] == 1 and all(size == 1 for size in shape[2:])
    return value.ravel().astype(np.float64) if is_flat and shape[1] in (1, weighted.bias.size) else None


def _store(graph: onnx.GraphProto, weighted: _Weighted, affine: _Affine, name: str, namer: Namer) -> None:
    conv, gain = weighted.node, np.broadcast_to(affine.gain, weighted.bias.shape)
    values = {"weight": weighted.scaled(gain), "bias": weighted.bias * gain + affine.shift}
    names = [namer.name(f"{name}.{part}") for part in values]
    for stored, value in zip(names, values.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), stored))
    del conv.input[1:]
    conv.input.extend(names)
    conv.output[0] = name
