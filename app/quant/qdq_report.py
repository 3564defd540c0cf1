"""Say what a placement did."""

from collections.abc import Mapping
from typing import Any

import onnx

from app.quant.macs import count_multiply_adds, infer_sizes
from app.quant.placement import WEIGHTED_OPS, PlacementPlan
from app.quant.tensor_types import TensorType
from app.spec import QuantizeSpec


def report_placement(
    model: onnx.ModelProto, types: Mapping[str, TensorType], plan: PlacementPlan, spec: QuantizeSpec
) -> dict[str, Any]:
    """Return the report of a Q/DQ model, as JSON values.

    placement, float_type: as asked for · activations: tensors with a Q/DQ pair · weights: int8 weights ·
    quantized: nodes that read INT8, as {node, op, multiply_adds} (of one image, of 320 x 320 where the model leaves its
    size open, null where a shape is not known) ·
    kept_float: nodes with weights that stay float, the same with `reason` · multiply_adds_int8: share of the known
    multiply-adds in INT8, 0..1 · kept_fp32: with float_type fp16, the nodes that did not fit, as {name, reason}.
    """
    types = infer_sizes(model, types)
    quantized: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for node in model.graph.node:
        row = _row(node, types)
        if node.output[0] in plan.reads:
            quantized.append(row)
        elif node.output[0] in plan.kept_float:
            kept.append(row | {"reason": plan.kept_float[node.output[0]]})
    inside, outside = _total(quantized), _total(kept)
    return {
        "placement": spec.placement,
        "float_type": spec.float_type,
        "activations": len(plan.tensors),
        "weights": len({reads.weight.tensor for reads in plan.reads.values() if reads.weight}),
        "quantized": quantized,
        "kept_float": kept,
        "multiply_adds_int8": inside / (inside + outside) if inside + outside else 1.0,
        "kept_fp32": [],
    }


def _row(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> dict[str, Any]:
    count = count_multiply_adds(node, types) if node.op_type in WEIGHTED_OPS else 0
    return {"node": node.name or node.output[0], "op": node.op_type, "multiply_adds": count}


def _total(rows: list[dict[str, Any]]) -> int:
    return sum(row["multiply_adds"] or 0 for row in rows)
