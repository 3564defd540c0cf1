"""The step choose: judge the tables of all methods on the same images and name the best."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from app.quant.judge import judge_rank
from app.spec import DERIVED_METHODS, JobSpec
from app.worker.steps.judge import judge_file
from app.worker.steps.quantize import Quantizer, read_table

#: Of the standard error of a difference; and how much less an error must be to outweigh votes within that.
_CHANCE = 2
_CLEARLY_LESS = 0.5
_KEPT = ("agreement", "accuracy_fp32", "accuracy_int8", "mean_error", "images", "judged_on")


def choose(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return {"chosen": method, "candidates": {method: its figures}}: the best agreement, of ties the smaller mean error.

    See `choose_method` for what counts as a tie.
    request: that of the step judge without "tested", and "tables": {method: path}; where the spec asks for tuning also
    "dataset": {"listing", "packs"} to calibrate on.
    """
    spec = JobSpec.model_validate(request["spec"])
    model = onnx.load(request["model"])
    reports: dict[str, dict[str, Any]] = {}
    for method in (name for name in DERIVED_METHODS if name in request["tables"]):
        tested = Path(request["out"]) / f"{method}.onnx"
        quantizer = Quantizer(model, read_table(request["tables"][method]), request, report)
        quantizer.write(spec.quantize.excluding(()), tested)
        reports[method] = judge_file(request, tested, report)
        report({"log": _line(method, reports[method])})
    return {
        "chosen": choose_method(reports),
        "candidates": {method: {name: found[name] for name in _KEPT} for method, found in reports.items()},
    }


def choose_method(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the best method by its report: the best agreement, of ties the smaller mean error.

    One with the best agreement gives way to those that agree less by no more than chance, and err less than half as much:
    on 128 photos the entropy method had 5 votes more than mse, with six times the noise (SQNR 15.9 dB, not 24.1).
    """
    best = min(reports, key=lambda method: judge_rank(reports[method]))
    better = [method for method, report in reports.items() if _is_better_by_error(report, reports[best])]
    return min(better or [best], key=lambda method: judge_rank(reports[method]))


def _is_better_by_error(report: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    if best["agreement"] is None or not report["mean_error"] < _CLEARLY_LESS * best["mean_error"]:
        return False
    variances = [each["agreement"] * (1 - each["agreement"]) / each["images"] for each in (report, best)]
    return best["agreement"] - report["agreement"] <= _CHANCE * math.sqrt(sum(variances))


def _line(method: str, report: dict[str, Any]) -> str:
    agreement = report["agreement"]
    return f"{method}: " + (f"agreement {agreement:.4f}" if agreement is not None else f"mean error {report['mean_error']:.6g}")
