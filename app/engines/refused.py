"""Which nodes asked for INT8, by reading dequantized values, and are float in the graph that ONNX Runtime runs; and why."""

from collections.abc import Collection
from typing import Any

import onnx

from app.quant.nodes import Index, index_graph

#: Nodes with weights as ONNX Runtime names them once it has fused what it could.
FLOAT_OPS = frozenset(["Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"])
_NO_KERNEL = frozenset(["ConvTranspose"])


def find_refused(optimized: onnx.ModelProto, model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return {node, op, reason} of each node with weights that reads dequantized values and computes in float.

    `model`: what ONNX Runtime optimized, whose names the nodes have in the answer.
    """
    index, given = index_graph(optimized.graph), index_graph(model.graph)
    names = {node.name for node in model.graph.node}
    return [
        {"node": _given_name(node, names, given), "op": node.op_type, "reason": _reason(node, index)}
        for node in optimized.graph.node
        if node.op_type in FLOAT_OPS and any(_is_dequantized(name, index) for name in node.input[:2])
    ]


def _given_name(node: onnx.NodeProto, names: Collection[str], given: Index) -> str:
    """Return what the model calls a node: fused with an activation function or a bias, it has another name."""
    if node.name in names:
        return node.name or node.output[0]
    # Each node with weights reads a DequantizeLinear of its own.
    readers = [reader for name in node.input[:2] for reader in given.consumers.get(name, []) if reader.op_type in FLOAT_OPS]
    weights = [reader for reader in readers if given.only_reader(reader.input[1]) is reader]
    best = next(iter(weights or readers), node)
    return best.name or best.output[0]


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
