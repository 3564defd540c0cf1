"""Measure what each group of INT8 nodes costs: alone in INT8, and alone in float."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from app.engines.backend import Report
from app.engines.reference import Reference
from app.quant.bypass import group_names, with_float
from app.quant.macs import count_multiply_adds, infer_sizes
from app.quant.nodes import index_graph
from app.quant.placement import WEIGHTED_OPS
from app.quant.sensitivity import Group, loss_from_report
from app.quant.tensor_types import infer_types

#: Images that groups are measured on: their loss is a ratio of sums, so that few suffice.
IMAGES = 16
#: With more groups than this, only those with the fewest multiply-adds are measured: they are the cheap ones to exclude.
MOST_GROUPS = 192
#: So many of those that lose most alone are measured as the only ones in float, too.
MOST_FLOAT = 24


@dataclass(frozen=True)
class QuantizedPair:
    """A Q/DQ model and the prepared float model that it was made from. `given`: see `QuantizedModel`."""

    quantized: onnx.ModelProto
    float_model: onnx.ModelProto
    given: Mapping[str, str] = field(default_factory=dict)


def measure_sensitivity(pair: QuantizedPair, reference: Reference, report: Report) -> dict[str, Any]:
    """Return what the groups lose, as JSON values.

    images: looked at · passes: how many models were run on them · unmeasured: groups left out · all_int8: {loss,
    sqnr_db, agreement} · groups: [{node, output, op, multiply_adds, share, only_int8, only_float}] by the loss of
    only_int8, the largest first; only_float is null but for the first 24. node, output: as the model given has them, so
    that `exclude` takes them under every placement. share: of all multiply-adds in nodes with weights. Raises EngineProblem,
    JudgeProblem.
    """
    rows = _rows(pair)
    measured = sorted(rows, key=lambda row: row["multiply_adds"] or 0)[:MOST_GROUPS]
    total = 1 + len(measured) + min(MOST_FLOAT, len(measured))
    meter = _Meter(reference, report, total)
    outputs = [row["output"] for row in rows]
    everything = meter.measure(pair.quantized)
    for row in measured:
        others = [output for output in outputs if output != row["output"]]
        row["only_int8"] = meter.measure(with_float(pair.quantized, pair.float_model, others))
    measured.sort(key=lambda row: -row["only_int8"]["loss"])
    for row in measured[:MOST_FLOAT]:
        row["only_float"] = meter.measure(with_float(pair.quantized, pair.float_model, [row["output"]]))
    for row in measured:
        row |= {name: pair.given.get(row[name], row[name]) for name in ("node", "output")}
    return {
        "images": min(IMAGES, reference.images),
        "passes": total,
        "unmeasured": len(rows) - len(measured),
        "all_int8": everything,
        "groups": measured,
    }


def groups_from_sensitivity(sensitivity: dict[str, Any]) -> list[Group]:
    """Return the groups with what they take away: their loss as the only ones in INT8.

    These add up to the whole loss nearly. What is gained with one alone in float is the difference of two large losses,
    and nothing where several groups each ruin the outputs.
    """
    return [Group(row["output"], row["node"], row["share"], row["only_int8"]["loss"]) for row in sensitivity["groups"]]


@dataclass
class _Meter:
    reference: Reference
    report: Report
    total: int
    done: int = 0

    def measure(self, tested: onnx.ModelProto) -> dict[str, Any]:
        found = self.reference.compare(tested, IMAGES)
        self.done += 1
        self.report({"progress": [self.done, self.total]})
        loss = loss_from_report(found)
        sqnr = [output["sqnr_db"] for output in found["outputs"].values() if output["sqnr_db"] is not None]
        return {"loss": loss, "sqnr_db": min(sqnr, default=None), "agreement": found["agreement"]}


def _rows(pair: QuantizedPair) -> list[dict[str, Any]]:
    index, types = index_graph(pair.float_model.graph), infer_sizes(pair.float_model, infer_types(pair.float_model))
    weighted = [node for node in pair.float_model.graph.node if node.op_type in WEIGHTED_OPS]
    known = {node.output[0]: count_multiply_adds(node, types) for node in weighted}
    # One that nobody can count is taken for as large as the largest: were it free, everything might stay float.
    largest = max((count for count in known.values() if count is not None), default=1)
    counts = {output: largest if count is None else count for output, count in known.items()}
    whole = max(sum(counts.values()), 1)
    rows = []
    for output in group_names(pair.float_model, pair.quantized):
        node, count = index.producers[output], counts.get(output, 0)
        about = {"node": node.name or output, "output": output, "op": node.op_type}
        rows.append(about | {"multiply_adds": count, "share": count / whole, "only_int8": None, "only_float": None})
    return rows
