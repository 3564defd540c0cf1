"""Which nodes asked for INT8, by reading dequantized values, and are float in the graph that ONNX Runtime runs; and why."""

from typing import Any

import onnx

from app.quant.nodes import Index, index_graph

#: Nodes with weights as ONNX Runtime names them once it has fused what it could.
FLOAT_OPS = frozenset(["Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"])
_NO_KERNEL = frozenset(["ConvTranspose"])


def find_refused(optimized: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return {node, op, reason} of each node with weights that reads dequantized values and computes in float."""
    index = index_graph(optimized.graph)
    return [
        {"node": node.name or node.output[0], "op": node.op_type, "reason": _reason(node, index)}
        for node in optimized.graph.node
        if node.op_type in FLOAT_OPS and any(_is_dequantized(name, index) for name in node.input[:2])
    ]


def _is_dequantized(name: str, index: Index) -> bool:
    maker = index.producers.get(name)
    return maker is not None and maker.op_type == "DequantizeLinear"


def _reason(node: onnx.NodeProto, index: Index) -> str:
    if node.op_type in _NO_KERNEL:
        return f"onnxruntime has no INT8 kernel for {node.op_type} on a CPU"
    if not all(_is_dequantized(name, index) for name in node.input[:2]):
        return "only one of its inputs is INT8"
    output = node.output[0]
    readers = sorted({reader.op_type for reader in index.consumers.get(output, [])})
    if readers == ["QuantizeLinear"]:
        return "onnxruntime did not fuse it with the pairs around it"
    to = f"{', '.join(readers)} in float" if readers else "a float output of the model"
    return f"onnxruntime's INT8 {node.op_type} writes INT8, and this one writes to {to}"
