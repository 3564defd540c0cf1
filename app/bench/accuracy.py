"""The benchmark of accuracy: our methods and options as jobs of a real server, other quantizers beside, one judge."""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bench.prepare import Wanted, prepare
from app.bench.splits import Split
from app.bench.subject import Subject
from app.child.parent import ChildCall, run_child
from app.client.client import Client
from app.errors import Problem
from app.spec import PreprocessSpec

_AUTO = "auto"
#: What we are asked for: calibration.method and quantize.
_TUNED = {"bias_correction": True, "weight_rounding": "gptq"}
_CENTERED = _TUNED | {"center": True}
_ASYMMETRIC = _TUNED | {"asymmetric": True}
_CORRECTED = {"bias_correction": True}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "minmax": ("minmax", {}),
    "percentile": ("percentile", {}),
    "mse": ("mse", {}),
    "entropy": ("entropy", {}),
    "auto": ("auto", {}),
    "auto, bias_correction": ("auto", _CORRECTED),
    "auto, bias_correction, center": ("auto", _CORRECTED | {"center": True}),
    "auto, bias_correction, gptq": ("auto", _TUNED),
    "auto, bias_correction, gptq, center": ("auto", _CENTERED),
    "auto, bias_correction, gptq, center, exclude auto": ("auto", _CENTERED | {"exclude": "auto"}),
    "auto, asymmetric": ("auto", {"asymmetric": True}),
    "auto, bias_correction, asymmetric": ("auto", _CORRECTED | {"asymmetric": True}),
    "auto, bias_correction, gptq, asymmetric": ("auto", _ASYMMETRIC),
    "auto, equalize, bias_correction, asymmetric": ("auto", _CORRECTED | {"asymmetric": True, "equalize": True}),
    "auto, bias_correction, gptq, asymmetric, exclude auto": ("auto", _ASYMMETRIC | {"exclude": "auto"}),
}
_ORT_METHODS = ("MinMax", "Entropy", "Percentile")
_TIMEOUT_SECONDS = 3600
_ALL_IMAGES = 100_000
#: What a row says, each the mean over the splits.
FIGURES = ("agreement", "expected_agreement", "accuracy_fp32", "accuracy_int8", "cosine", "sqnr_db", "float_share")


@dataclass(frozen=True)
class Options:
    """Which ways are measured, and what is said as it goes on.

    `modelopt_python`: see bench calibrate. `only`: words of which one must be in the name of a way; empty for all ways.
    `method`: what the ways that combine options take in the place of auto. `min_agreement`, `max_excluded`: the gate of the
    ways that exclude automatically, and the share of multiply-adds that they may leave in float; None for the defaults.
    """

    say: Callable[[str], None]
    others: bool = True
    modelopt_python: str | None = None
    only: tuple[str, ...] = ()
    method: str = _AUTO
    min_agreement: float | None = None
    max_excluded: float | None = None

    def ways(self) -> dict[str, dict[str, Any]]:
        """Return our ways by name: calibration, quantize and judge of a JobSpec."""
        return {what.replace(_AUTO, self.method, 1): self._way(method, q) for what, (method, q) in OURS.items()}

    def _way(self, method: str, quantize: dict[str, Any]) -> dict[str, Any]:
        way = {"calibration": {"method": method.replace(_AUTO, self.method)}, "quantize": quantize, "judge": {}}
        if quantize.get("exclude") != _AUTO:
            return way
        gate = {} if self.min_agreement is None else {"gate": {"min_agreement": self.min_agreement}}
        limit = {} if self.max_excluded is None else {"max_excluded": self.max_excluded}
        return way | {"quantize": quantize | limit, "judge": gate}

    def wants(self, what: str) -> bool:
        """Whether this way is to be measured."""
        return not self.only or any(word in what for word in self.only)


def bench_accuracy(splits: Iterable[Split], client: Client, options: Options) -> list[dict[str, Any]]:
    """Return a row for each net and way to quantize it, as JSON values.

    net, what · splits: how many · images: judged on in all · figures of `FIGURES`, null where there are none ·
    agreement_least: of a split · failed: why, where there are no figures. Raises Problem, ClientProblem.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for split in splits:
        for what, figures in _measure(split, client, options):
            found.setdefault((split.net, what), []).append(figures)
    return [_row(net, what, figures) for (net, what), figures in found.items()]


def _measure(split: Split, client: Client, options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    names = _push(split, client)
    for what, way in options.ways().items():
        if options.wants(f"Enginesmith {what}"):
            options.say(f"{split.net}, {split.name}: {what}")
            yield f"Enginesmith {what}", _run_job(client, _job_spec(split, names, way))
    if options.others:
        with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
            yield from _others(split, Path(folder), options)


def _push(split: Split, client: Client) -> tuple[str, str, str]:
    names = tuple(f"{split.net} {split.name} {part}".lower().replace(" ", "-").replace(",", "") for part in ("net", "a", "b"))
    client.push_model(split.model, names[0])
    client.push_dataset(split.calibration, names[1])
    client.push_dataset(split.judge, names[2])
    return names[0], names[1], names[2]


def _job_spec(split: Split, names: tuple[str, str, str], way: dict[str, Any]) -> dict[str, Any]:
    model, calibration, judge = names
    judged = {"dataset": judge, "images": _ALL_IMAGES} | way["judge"]
    about = {"model": model, "dataset": calibration, "preprocess": split.preprocess, "engine": {"backend": "onnxruntime"}}
    return way | about | {"judge": judged}


def _run_job(client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    job = client.submit(spec)
    if job["state"] in ("queued", "running"):
        job = client.wait(job["id"])
    if job["state"] != "succeeded" and job["error"]["code"] != "gate_missed":  # what misses its gate has its figures, too
        return {"failed": job["error"]["detail"]}
    report = client.job_report(job["id"])
    return _figures(report | {"float_share": 1 - report["engine"]["multiply_adds_int8"]}) | {"method": report["method"]}


def _others(split: Split, folder: Path, options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    calibration, judge = (_subject(split, part, folder) for part in ("calibration", "judge"))
    ways = {f"onnxruntime {m}": ("quantizers:ort_static", {"method": m}, sys.executable) for m in _ORT_METHODS}
    if options.modelopt_python:
        ways["nvidia-modelopt default"] = ("quantizers:modelopt", {}, options.modelopt_python)
    for what, (step, request, python) in ((what, way) for what, way in ways.items() if options.wants(what)):
        options.say(f"{split.net}, {split.name}: {what}")
        tested = str(folder / "quantized.onnx")
        try:
            _child(step, request | {"subject": calibration.to_json(), "out": tested}, python)
            judged = {"subject": judge.to_json(), "archive": str(split.judge), "tested": tested}
            yield what, _figures(_child("judged:judge", judged, sys.executable))
        except (Problem, OSError) as problem:
            yield what, {"failed": str(problem)}


def _subject(split: Split, part: str, folder: Path) -> Subject:
    preprocess = PreprocessSpec.model_validate(split.preprocess)
    images = split.calibration if part == "calibration" else split.judge
    return prepare(Wanted(split.net, split.model, images, preprocess=preprocess), folder / part)


def _child(step: str, request: dict[str, Any], python: str) -> dict[str, Any]:
    return asyncio.run(run_child(ChildCall(f"app.bench.{step}", request, "bench", _TIMEOUT_SECONDS, python=python)))


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    name = report["classification_output"] or next(iter(report["outputs"]))
    return {figure: report.get(figure, report["outputs"][name].get(figure)) for figure in FIGURES} | {
        "images": report["images"]
    }


def _row(net: str, what: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    row = {"net": net, "what": what, "splits": len(found)}
    failed = [each["failed"] for each in found if "failed" in each]
    if failed:
        return row | {"failed": failed[0]}
    means = {name: _mean([each[name] for each in found]) for name in FIGURES}
    agreements = [each["agreement"] for each in found if each["agreement"] is not None]
    methods = sorted({each["method"] for each in found if "method" in each})
    about = {"images": sum(each["images"] for each in found), "agreement_least": min(agreements, default=None)}
    return row | means | about | {"methods": methods}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
