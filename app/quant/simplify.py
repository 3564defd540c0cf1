"""Rewrites that keep every value: identities removed, BatchNorm and Pad folded into the convolution beside them."""

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.nodes import (
    Index,
    Namer,
    get_attribute,
    get_int,
    index_graph,
    replace_initializers,
    replace_input,
    replace_nodes,
    set_attribute,
)

_PASSING = ("Identity", "Dropout")


def remove_identities(graph: onnx.GraphProto) -> None:
    """Remove Identity and inference-time Dropout whose output is no graph output, in place."""
    index = index_graph(graph)
    kept = []
    for node in graph.node:
        if _is_passing(node, index):
            replace_input(graph.node, node.output[0], node.input[0])
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        replace_nodes(graph, kept)


def _is_passing(node: onnx.NodeProto, index: Index) -> bool:
    if node.op_type not in _PASSING or node.domain != "" or index.protected & set(node.output):
        return False
    if any(index.consumers.get(mask) for mask in node.output[1:]):
        return False
    training = index.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.False_
    return training is not None and not bool(training)


def fold_batchnorms(graph: onnx.GraphProto) -> None:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm that alone feeds it, in place.

    The convolution's output takes the BatchNormalization's name. w' = w * g / sqrt(var + eps),
    b' = (b - mean) * g / sqrt(var + eps) + beta, in float64, stored as float32.
    """
    index, namer = index_graph(graph), Namer(graph)
    folded: list[str] = []
    for node in graph.node:
        if node.op_type == "BatchNormalization" and _fold_batchnorm(graph, index, node, namer):
            folded.append(node.output[0])
    if folded:
        gone = set(folded)
        kept = [n for n in graph.node if not (n.op_type == "BatchNormalization" and n.output[0] in gone)]
        replace_nodes(graph, kept)


def _fold_batchnorm(graph: onnx.GraphProto, index: Index, norm: onnx.NodeProto, namer: Namer) -> bool:
    conv = index.producers.get(norm.input[0])
    if conv is None or index.only_reader(norm.input[0]) is None or get_int(norm, "training_mode", 0):
        return False
    axis = _output_axis(conv)
    weight = index.array(conv.input[1]) if axis is not None else None
    statistics = [index.array(name) for name in norm.input[1:5]]
    bias = index.array(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.float32(0)
    if axis is None or weight is None or bias is None or weight.dtype != np.float32:
        return False
    arrays = [array.astype(np.float64) for array in statistics if array is not None]
    if len(arrays) < 4 or arrays[0].size != weight.shape[axis]:
        return False
    gamma, beta, mean, variance = arrays
    epsilon = get_attribute(norm, "epsilon", 1e-5)
    gain = gamma / np.sqrt(variance + (epsilon if isinstance(epsilon, float) else 1e-5))
    spread = gain.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    new_bias = (np.broadcast_to(bias, gain.shape).astype(np.float64) - mean) * gain + beta
    name = norm.output[0]
    del conv.input[1:]
    conv.input.extend([namer.name(f"{name}.weight"), namer.name(f"{name}.bias")])
    for stored, value in zip(conv.input[1:], (weight * spread, new_bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), stored))
    conv.output[0] = name
    return True


def _output_axis(conv: onnx.NodeProto) -> int | None:
    group = get_int(conv, "group", 1)
    if conv.op_type == "Conv":
        return 0
    if conv.op_type == "ConvTranspose" and group == 1:
        return 1
    plain = get_attribute(conv, "alpha", 1.0) == 1.0 and get_attribute(conv, "beta", 1.0) == 1.0
    if conv.op_type == "Gemm" and plain and not get_int(conv, "transA", 0):
        return 0 if get_int(conv, "transB", 0) else 1
    return None


def merge_pads(graph: onnx.GraphProto) -> None:
    """Move zero padding of the spatial dimensions into the Conv nodes that alone read it, in place.

    A Pad between Clip and Conv would part the two in every runtime.
    """
    index = index_graph(graph)
    merged = {node.output[0] for node in graph.node if node.op_type == "Pad" and _merge_pad(node, index)}
    if merged:
        replace_nodes(graph, [n for n in graph.node if not (n.op_type == "Pad" and n.output[0] in merged)])


def _merge_pad(pad: onnx.NodeProto, index: Index) -> bool:
    spatial = _zero_padding(pad, index)
    readers = index.consumers.get(pad.output[0], [])
    if spatial is None or not readers or pad.output[0] in index.protected:
        return False
    if not all(_takes_padding(node, pad.output[0], len(spatial) // 2) for node in readers):
        return False
    for node in readers:
        own = get_attribute(node, "pads") or [0] * len(spatial)
        pads = [a + b for a, b in zip(own, spatial, strict=True)]  # type: ignore[arg-type]
        set_attribute(node, "pads", pads)
        node.input[0] = pad.input[0]
    return True


def _zero_padding(pad: onnx.NodeProto, index: Index) -> list[int] | None:
    amounts = index.array(pad.input[1]) if len(pad.input) > 1 else None
    value = index.array(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.float32(0)
    has_axes = len(pad.input) > 3 and bool(pad.input[3])
    mode = get_attribute(pad, "mode", b"constant")
    if amounts is None or value is None or has_axes or mode != b"constant" or np.any(value != 0):
        return None
    half = amounts.size // 2
    before, after = amounts[:half], amounts[half:]
    if half < 3 or np.any(amounts < 0) or before[:2].any() or after[:2].any():
        return None
    return [int(amount) for amount in [*before[2:], *after[2:]]]


def _takes_padding(node: onnx.NodeProto, name: str, rank: int) -> bool:
    automatic = get_attribute(node, "auto_pad", b"NOTSET")
    own = get_attribute(node, "pads") or [0] * (2 * rank)
    fits = isinstance(own, list) and len(own) == 2 * rank
    return node.op_type == "Conv" and fits and automatic in (b"NOTSET", b"VALID") and list(node.input).count(name) == 1


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that reach no graph output, in place."""
    index = index_graph(graph)
    needed: set[str] = set()
    waiting = list(index.protected)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        maker = index.producers.get(name)
        if maker is not None:
            waiting.extend(maker.input)
    used = [node for node in graph.node if needed & set(node.output)]
    if len(used) < len(graph.node):
        replace_nodes(graph, used)
    if any(tensor.name not in needed for tensor in graph.initializer):
        replace_initializers(graph, [tensor for tensor in graph.initializer if tensor.name in needed])
