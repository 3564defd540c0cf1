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

    What is within one standard error of the best agreement is a tie: on 128 images a vote or two are chance, and chance
    has preferred a table with six times the noise.
    """
    best = reports[min(reports, key=lambda method: judge_rank(reports[method]))]
    agreement = best["agreement"]
    if agreement is None:
        return min(reports, key=lambda method: judge_rank(reports[method]))
    least = agreement - math.sqrt(agreement * (1 - agreement) / best["images"])
    tied = [method for method, report in reports.items() if report["agreement"] >= least]
    return min(tied, key=lambda method: reports[method]["mean_error"])


def _line(method: str, report: dict[str, Any]) -> str:
    agreement = report["agreement"]
    return f"{method}: " + (f"agreement {agreement:.4f}" if agreement is not None else f"mean error {report['mean_error']:.6g}")
