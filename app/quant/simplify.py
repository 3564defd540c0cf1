"""Rewrites that keep every value: identities and what is unused removed, Pads moved into the convolution behind them."""

import numpy as np
import onnx

from app.quant.nodes import Index, get_attribute, index_graph, op_of, replace_nodes, set_attribute

_PASSING = ("Identity", "Dropout")


def remove_identities(graph: onnx.GraphProto) -> None:
    """Remove Identity and inference-time Dropout whose output is no graph output, in place."""
    index = index_graph(graph)
    sources: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = sources.get(name, name)
        if _is_passing(node, index):
            sources[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if sources:
        replace_nodes(graph, kept)


def _is_passing(node: onnx.NodeProto, index: Index) -> bool:
    if op_of(node) not in _PASSING or index.protected & set(node.output):
        return False
    if any(index.consumers.get(mask) for mask in node.output[1:]):
        return False
    training = index.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.False_
    return training is not None and not bool(training)


def unify_sums(graph: onnx.GraphProto) -> None:
    """Make every Sum of two tensors an Add, in place: runtimes know a shortcut by it."""
    for node in graph.node:
        if op_of(node) == "Sum" and len(node.input) == 2:
            node.op_type = "Add"


def merge_pads(graph: onnx.GraphProto) -> None:
    """Move zero padding of the spatial dimensions into the Conv nodes that alone read it, in place.

    A Pad between Clip and Conv would part the two in every runtime.
    """
    index = index_graph(graph)
    merged = {node.output[0] for node in graph.node if op_of(node) == "Pad" and _merge_pad(node, index)}
    if merged:
        replace_nodes(graph, [node for node in graph.node if not (op_of(node) == "Pad" and node.output[0] in merged)])


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
    return op_of(node) == "Conv" and fits and automatic in (b"NOTSET", b"VALID") and list(node.input).count(name) == 1


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
    # One by one: to write those that stay anew would hold all weights twice.
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in needed:
            del graph.initializer[position]
