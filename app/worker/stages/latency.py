"""Latency beside accuracy: the engine of a job and what it competes with, timed on the worker that built it."""

from typing import Any

from app.db.rows import EngineRow
from app.inputs.preprocess import made_shape
from app.worker.context import Run
from app.worker.files import model_path

STEP = "app.worker.steps.latency:latency"

#: What INT8 must beat to be worth its loss.
_RIVALS = {"tensorrt": "fp16", "onnxruntime": "fp32"}


def measure_models(run: Run, engine: EngineRow) -> dict[str, Any]:
    """Return the step's figures of an ONNX Runtime engine and of the FP32 model that it was made from."""
    fp32 = model_path(run.worker.blobs, run.job.model, run.folder / "model")
    plans = {"fp32": fp32, engine.precision: str(run.worker.blobs.fetch(engine.plan))}
    return run.child(STEP, {"backend": engine.backend, "plans": plans, "shape": _usual_shape(run)})


def latency_warnings(backend: str, precisions: dict[str, Any]) -> list[str]:
    """Return `int8_not_faster`, or fp8, where that takes as long as the float engine that it shall replace, or longer."""
    rival = precisions[_RIVALS[backend]]["median_ms"]
    quantized = [name for name in ("int8", "fp8") if name in precisions]
    return [f"{name}_not_faster" for name in quantized if precisions[name]["median_ms"] >= rival]


def _usual_shape(run: Run) -> list[int]:
    engine = run.job.spec.engine
    assert engine is not None
    profile = next(iter((engine.shapes or {}).values()), None)
    if profile is not None:
        return list(profile.opt)
    fixed = run.job.model.inputs[0]["shape"]
    return [size if isinstance(size, int) else 1 for size in fixed or made_shape(run.job.spec.preprocess)]
