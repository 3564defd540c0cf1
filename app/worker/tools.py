"""What does a job's work, as it stands in keys: decided by the job's spec and by what a worker has."""

from collections.abc import Mapping
from typing import Any

from app.engines.queues import tool_from_facts
from app.resolved import Tools
from app.spec import JobSpec

_GPU_OBSERVER = "tensorrt"


def tools_for_job(installed: Tools, backends: Mapping[str, Mapping[str, Any]], spec: JobSpec) -> Tools:
    """Return the tools of a job on a worker that has these backends; `installed` are those of every job there."""
    backend = spec.engine.backend if spec.engine else None
    known = backends.get(backend or "")
    made = tool_from_facts(backend, known) if backend and known else None
    return installed.model_copy(update={"backend": made, "observer": _observer(installed, backends, spec)})


def is_observed_on_gpu(spec: JobSpec) -> bool:
    """Whether TensorRT runs the model for the histograms: where it was asked to, or builds the engine anyway.

    A model that it cannot run it could not build either.
    """
    if spec.calibration is None or spec.calibration.observer == "onnxruntime":
        return False
    is_built_there = spec.engine is not None and spec.engine.backend == _GPU_OBSERVER
    return spec.calibration.observer == _GPU_OBSERVER or is_built_there


def _observer(installed: Tools, backends: Mapping[str, Mapping[str, Any]], spec: JobSpec) -> str:
    if not is_observed_on_gpu(spec):
        return installed.observer
    # GPUs of another kind, and other versions, round differently. Without a worker yet no version is known.
    facts = backends.get(_GPU_OBSERVER)
    return tool_from_facts(_GPU_OBSERVER, facts) if facts else _GPU_OBSERVER
