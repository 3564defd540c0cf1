"""What stays fp32 in an fp16 model though it would fit: INT8 nodes that write a graph output, which is fp32 anyway.

Such a node writes it itself, with no kernel behind it that casts, and no logit is rounded to fp16.
"""

import onnx

from app.quant.nodes import Index, index_graph

_MOVING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def find_fp32_outputs(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the first outputs of such nodes, of the DequantizeLinear nodes before them and of what only moves their values."""
    index = index_graph(graph)
    found: set[str] = set()
    for output in graph.output:
        node, moving = index.producers.get(output.name), set[str]()
        while node is not None and node.op_type in _MOVING and _has_one_use(node.output[0], index):
            moving.add(node.output[0])
            node = index.producers.get(node.input[0])
        if node is not None and _has_one_use(node.output[0], index) and (before := _dequantizers(node, index)):
            found |= moving | {node.output[0]} | before
    return frozenset(found)


def _has_one_use(name: str, index: Index) -> bool:
    return len(index.consumers.get(name, [])) + (name in index.protected) == 1


def _dequantizers(node: onnx.NodeProto, index: Index) -> set[str]:
    """Return the outputs of the DequantizeLinear nodes that node alone reads; none unless all but a bias are such."""
    makers = [index.producers.get(name) for name in node.input if name and name not in index.constants]
    known = {maker.output[0] for maker in makers if maker is not None and maker.op_type == "DequantizeLinear"}
    return known if len(known) == len(makers) and all(_has_one_use(name, index) for name in known) else set()
