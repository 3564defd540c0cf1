"""The benchmark of engines: one model in FP32, FP16 and INT8 of every kind that a backend has, timed in turns."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from app.bench.engine_steps import find_input
from app.bench.prepare import Wanted, prepare
from app.bench.subject import Subject
from app.child.parent import ChildCall, run_child
from app.errors import EngineProblem
from app.spec import FloatType

#: What is built where nothing is named: precisions, placements of Q/DQ pairs, and `implicit`, which gives TensorRT the
#: table as a calibration cache.
KINDS = {
    "tensorrt": ("implicit", "fused", "default", "conservative", "fp16", "fp32"),
    "onnxruntime": ("fused", "default", "conservative", "fp32"),
}
_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class EngineOptions:
    """What is built, how, and what is said as it goes on.

    `kinds`: of `KINDS`, empty for all of the backend's. `float_type`: what INT8 engines compute the rest in. `cache`: a
    calibration cache of the model to take scales from; None calibrates by min-max on the images. `batch`: images a run, where
    the model does not fix it.
    """

    say: Callable[[str], None]
    backend: Literal["tensorrt", "onnxruntime"] = "tensorrt"
    kinds: tuple[str, ...] = ()
    batch: int = 8
    optimization_level: int = 3
    float_type: FloatType = "fp16"
    cache: Path | None = None


def bench_engines(wanted: Wanted, options: EngineOptions) -> dict[str, Any]:
    """Return the measurements as JSON values.

    net, backend, version, batch, optimization_level · gpu, clock, how: as `app.engines.latency` says · engines: {kind:
    {median_ms, p99_ms, runs, launch, images_per_second, plan_bytes, layers, build_seconds} or {"failed": why}}. Raises
    Problem.
    """
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        options.say(f"{wanted.name}: preparing")
        subject = prepare(wanted, Path(folder))
        known = {"cache": str(options.cache)} if options.cache else {"observation": _observe(subject, Path(folder), options)}
        built = _run("app.bench.engine_steps:build", _build_request(subject, options, Path(folder)) | known, options)
        return _timed(subject, options, built)


def _observe(subject: Subject, folder: Path, options: EngineOptions) -> str:
    options.say(f"{subject.name}: calibrating on {subject.count} images")
    prepared, out = folder / "prepared", folder / "observation"
    about = {"subject": subject.to_json()}
    _run("app.bench.prepared:prepare", about | {"observe": "all", "out": str(prepared)}, options)
    asked = {"prepared": str(prepared), "images": None, "out": str(out), "known": None}
    _run("app.bench.ours:observe", about | asked, options)
    return str(out)


def _build_request(subject: Subject, options: EngineOptions, folder: Path) -> dict[str, Any]:
    return {
        "model": subject.model,
        "shape": _shape(subject, options),
        "backend": options.backend,
        "kinds": list(dict.fromkeys(options.kinds or KINDS[options.backend])),
        "optimization_level": options.optimization_level,
        "float_type": options.float_type if options.backend == "tensorrt" else "fp32",
        "out": str(folder),
    }


def _shape(subject: Subject, options: EngineOptions) -> list[int]:
    (dimension, *_) = find_input(onnx.load(subject.model, load_external_data=False)).type.tensor_type.shape.dim
    return [dimension.dim_value or options.batch, *subject.shape]


def _timed(subject: Subject, options: EngineOptions, built: dict[str, Any]) -> dict[str, Any]:
    engines = built["engines"]
    plans = {kind: engine.pop("plan") for kind, engine in engines.items() if "failed" not in engine}
    if not plans:
        raise EngineProblem(backend=options.backend, reason=f"it built none: {next(iter(engines.values()))['failed']}")
    options.say(f"{subject.name}: timing {', '.join(plans)}")
    asked = {"backend": options.backend, "plans": plans, "shape": _shape(subject, options)}
    taken = _run("app.worker.steps.latency:latency", asked, options)
    for kind, figures in taken.pop("precisions").items():
        engines[kind] = figures | engines[kind]
    return _document(subject, options, built, taken)


def _document(subject: Subject, options: EngineOptions, built: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    level = {"optimization_level": options.optimization_level} if options.backend == "tensorrt" else {}
    about = {"net": subject.name, "backend": options.backend, "version": built["version"], "batch": _shape(subject, options)[0]}
    return about | level | taken | {"engines": built["engines"]}


def _run(step: str, request: dict[str, Any], options: EngineOptions) -> dict[str, Any]:
    def report(event: dict[str, Any]) -> None:
        if "say" in event:
            options.say(event["say"])

    return asyncio.run(run_child(ChildCall(step, request, "bench", _TIMEOUT_SECONDS), report))
