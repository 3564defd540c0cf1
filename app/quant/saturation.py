"""Clips that INT8 makes needless: a bound that saturates anyway.

TensorRT fuses a Relu into more of its convolutions than a Clip. Where all that read a Clip's output quantize it, and the
upper bound gives the largest step, 127, a Relu gives every reader the same steps.
"""

import onnx

from app.quant.nodes import Index, index_graph, op_of
from app.quant.simplify import remove_unused

#: Beyond 126.5 a quotient rounds to 127, also with a scale that fp16 rounded by 1/2048.
_SATURATING = 126.6


def relu_from_saturating(graph: onnx.GraphProto) -> None:
    """Make a Relu of every Clip of a Q/DQ graph from 0 to a bound that saturates in all its readers, in place."""
    index = index_graph(graph)
    needless = [node for node in graph.node if op_of(node) == "Clip" and _is_needless(node, index)]
    for node in needless:
        node.op_type = "Relu"
        del node.input[1:]
    if needless:
        remove_unused(graph)


def clip_where_read(graph: onnx.GraphProto, float_model: onnx.ModelProto) -> None:
    """Make those Relus of a Q/DQ graph the Clips of the float model again that something reads unquantized, in place."""
    index, floats = index_graph(graph), index_graph(float_model.graph)
    for node in graph.node:
        twin = floats.producers.get(node.output[0]) if node.op_type == "Relu" else None
        if twin is not None and op_of(twin) == "Clip" and not _is_quantized_alone(node.output[0], index):
            node.op_type = "Clip"
            del node.input[:]
            node.input.extend(twin.input)


def _is_needless(node: onnx.NodeProto, index: Index) -> bool:
    low, high = (index.array(name) if name else None for name in [*node.input[1:3], "", ""][:2])
    if low is None or high is None or low.size != 1 or high.size != 1 or low.reshape(()) != 0:
        return False
    if not _is_quantized_alone(node.output[0], index):
        return False
    bound = float(high.reshape(()))
    return all(_saturates(bound, reader, index) for reader in index.consumers[node.output[0]])


def _saturates(bound: float, reader: onnx.NodeProto, index: Index) -> bool:
    scale, zero_point = (index.array(name) for name in reader.input[1:3])
    if scale is None or zero_point is None or scale.size != 1:
        return False
    return bound / float(scale.reshape(())) + int(zero_point.reshape(())) > _SATURATING


def _is_quantized_alone(name: str, index: Index) -> bool:
    readers = index.consumers.get(name, [])
    return bool(readers) and name not in index.protected and all(reader.op_type == "QuantizeLinear" for reader in readers)
