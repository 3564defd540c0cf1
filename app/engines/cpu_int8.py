"""Let ONNX Runtime's CPU provider run convolutions in INT8 where a Relu or Clip stands before the next Q/DQ pair.

Its INT8 convolution needs QuantizeLinear right behind it, and int8 with zero point 0 cannot absorb a Relu. Rounding is
monotonic, so Conv -> Q -> DQ -> Relu -> Q with one scale gives the very values of Conv -> Relu -> Q: a pair more, no
value changed, and the convolution writes INT8.
"""

import onnx
from onnx import helper

from app.quant.nodes import Index, Namer, index_graph, replace_nodes

_MONOTONIC = frozenset({"Relu", "Clip"})
_FUSED = frozenset({"Conv"})


def fuse_for_cpu(model: onnx.ModelProto) -> int:
    """Put a Q/DQ pair of the activation's own scale behind each convolution that a Relu or Clip parts from its Q.

    In place; no value changes. Returns how many convolutions gained one.
    """
    graph = model.graph
    index, namer = index_graph(graph), Namer(graph)
    pairs = {conv.output[0]: quantize for conv, quantize in _find_parted(graph, index)}
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        written.append(node)
        if node.output[0] in pairs:
            written.extend(_pair(node, index, pairs[node.output[0]], namer))
    if pairs:
        replace_nodes(graph, written)
    return len(pairs)


def _find_parted(graph: onnx.GraphProto, index: Index) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    found = []
    for node in graph.node:
        activation = index.only_reader(node.output[0]) if node.op_type in _FUSED else None
        if activation is None or activation.op_type not in _MONOTONIC or not _reads_int8(node, index):
            continue
        quantize = index.only_reader(activation.output[0])
        if quantize is not None and activation.input[0] == node.output[0] and _is_around_zero(quantize, index):
            found.append((node, quantize))
    return found


def _is_around_zero(quantize: onnx.NodeProto, index: Index) -> bool:
    zero_point = index.array(quantize.input[2]) if quantize.op_type == "QuantizeLinear" else None
    return zero_point is not None and not zero_point.any()


def _reads_int8(conv: onnx.NodeProto, index: Index) -> bool:
    makers = [index.producers.get(name) for name in conv.input[:2]]
    return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def _pair(conv: onnx.NodeProto, index: Index, quantize: onnx.NodeProto, namer: Namer) -> list[onnx.NodeProto]:
    output, parameters = conv.output[0], list(quantize.input[1:])
    inner, result = namer.name(f"{output}_quantized"), namer.name(f"{output}_dequantized")
    index.consumers[output][0].input[0] = result
    return [
        helper.make_node("QuantizeLinear", [output, *parameters], [inner], name=namer.name(f"{output}_QuantizeLinear")),
        helper.make_node("DequantizeLinear", [inner, *parameters], [result], name=namer.name(f"{output}_DequantizeLinear")),
    ]
