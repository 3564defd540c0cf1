"""Cut a graph into segments that run one after the other, so that what was computed is counted while the cache holds it.

A forward pass that writes every fetched tensor to a place of its own moves all of them to main memory and back (27 MB
an image of EfficientNet-Lite0). Cut into parts of a few MB the places are used again, and the memory of a pass is small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from app.observers.prepared import Segment
from app.quant.nodes import find_captured

#: A segment ends behind the fetched tensor that brings its outputs to so many bytes.
SEGMENT_BYTES = 2 << 20


@dataclass(frozen=True)
class Cut:
    """The nodes of one segment, what it takes from before and what it gives."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut_graph(graph: onnx.GraphProto, fetched_bytes: Mapping[str, int]) -> list[Cut]:
    """Return the segments of graph, whose nodes stand in an order of execution; fetched tensors by bytes of a pass."""
    groups = _group_nodes(graph, fetched_bytes)
    made = [{name for node in nodes for name in node.output if name} for nodes in groups]
    # A subgraph mentions names of its own, too; only those of this graph are handed over.
    known = {value.name for value in graph.input}.union(*made) - _constants(graph)
    used = [_read_by(nodes) & known for nodes in groups]
    cuts = []
    for number, nodes in enumerate(groups):
        later = set().union(*used[number + 1 :])
        inputs = sorted(used[number] - made[number])
        outputs = [name for node in nodes for name in node.output if name in fetched_bytes or name in later]
        cuts.append(Cut(tuple(nodes), tuple(inputs), tuple(outputs)))
    return cuts


def _constants(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}


def _group_nodes(graph: onnx.GraphProto, fetched_bytes: Mapping[str, int]) -> list[list[onnx.NodeProto]]:
    groups: list[list[onnx.NodeProto]] = [[]]
    filled = 0
    for node in graph.node:
        if filled >= SEGMENT_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(node)
        filled += sum(fetched_bytes.get(name, 0) for name in node.output)
    if len(groups) > 1 and not filled:
        groups[-2].extend(groups.pop())  # nothing of it is counted
    return groups


def _read_by(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input} | find_captured(nodes)


def save_segment(model: onnx.ModelProto, cut: Cut, types: Mapping[str, int], segment: Segment, folder: str) -> None:
    """Write the model of one segment; its larger weights stay in the file where they are. `types`: ONNX element types."""
    read = _read_by(cut.nodes)
    inputs = [onnx.helper.make_tensor_value_info(name, types[name], None) for name in cut.inputs]
    outputs = [onnx.ValueInfoProto(name=name) for name in cut.outputs]
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = onnx.helper.make_graph(cut.nodes, "segment", inputs, outputs, weights)
    graph.sparse_initializer.extend(tensor for tensor in model.graph.sparse_initializer if tensor.values.name in read)
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    onnx.save_model(part, f"{folder}/{segment.file}")
