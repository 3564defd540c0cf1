"""The step latency: the plans of one model in several precisions, timed side by side on this worker."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.engines.latency import measure_models, measure_plans


def latency(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return what `measure_plans`, or for ONNX files `measure_models`, does.

    request: {"backend", "plans": {precision: path}, "shape": of a batch, for ONNX files}.
    """
    plans = {name: Path(path) for name, path in request["plans"].items()}
    if request["backend"] == "tensorrt":
        return measure_plans(plans)
    return measure_models(plans, tuple(request["shape"]), len(os.sched_getaffinity(0)))
