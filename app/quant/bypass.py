"""Let chosen nodes of a Q/DQ model read float again: how a group of INT8 nodes is switched off for a measurement."""

from collections.abc import Collection

import onnx

from app.quant.int8_nodes import find_int8_nodes
from app.quant.nodes import Index, index_graph, replace_nodes
from app.quant.saturation import clip_where_read
from app.quant.simplify import remove_unused


def group_names(float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> list[str]:
    """Return the INT8 nodes of a Q/DQ model by their first output in the float model, in graph order."""
    floats, index = index_graph(float_model.graph), index_graph(quantized.graph)
    return [_float_output(each.node, floats, index) for each in find_int8_nodes(quantized.graph)]


def with_float(quantized: onnx.ModelProto, float_model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """Return the Q/DQ model with these groups as in the float model: activations, weights and biases."""
    copy = onnx.ModelProto()
    copy.CopyFrom(quantized)
    floats, index = index_graph(float_model.graph), index_graph(copy.graph)
    corrections: set[str] = set()
    for node in [each.node for each in find_int8_nodes(copy.graph)]:
        name = _float_output(node, floats, index)
        if name not in outputs:
            continue
        if node.output[0] != name:
            corrections.add(index.consumers[node.output[0]][0].name)
            node.output[0] = name
        del node.input[:]
        node.input.extend(floats.producers[name].input)
    if corrections:
        replace_nodes(copy.graph, [node for node in copy.graph.node if node.name not in corrections])
    clip_where_read(copy.graph, float_model)
    _bring_constants(copy.graph, floats)
    remove_unused(copy.graph)
    return copy


def _float_output(node: onnx.NodeProto, floats: Index, index: Index) -> str:
    # A MatMul whose bias was corrected has an Add behind it, which took the name of its output.
    name = node.output[0]
    return name if name in floats.producers else index.consumers[name][0].output[0]


def _bring_constants(graph: onnx.GraphProto, floats: Index) -> None:
    there = {tensor.name for tensor in graph.initializer}
    wanted = {name for node in graph.node for name in node.input if name in floats.constants}
    graph.initializer.extend(floats.constants[name] for name in sorted(wanted - there))
