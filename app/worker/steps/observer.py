"""Which observer a step works with: the resolved one, on its share of the cores or on its own GPU."""

import os
from pathlib import Path
from typing import Any

from app.observers.observing import Observer, Report
from app.observers.onnxruntime import Observer as CpuObserver
from app.observers.onnxruntime import ObserverSpec
from app.observers.prepared import read_prepared
from app.quant.observation import Grid
from app.worker.steps.drift import Drift


def open_observer(request: dict[str, Any], total_images: int, report: Report, drift: Drift | None = None) -> Observer:
    """Return the observer of the step `observe`, whose request says which, and which of how many parts this is.

    Parts run at the same time: on a CPU they share the cores, else part i has GPU i, over and over. `drift` is told what
    is observed as the images double.
    """
    number, parts = request["part"] or (0, 1)
    watch, known_images = (drift.look_at_added, drift.known_images) if drift else (None, 0)
    if request["observer"] == "tensorrt":
        # Neither onnx nor CUDA belongs into a process that observes on the CPU.
        from app.cuda.device import count_devices
        from app.observers.tensorrt import GpuObserver, GpuObserverSpec

        spec = GpuObserverSpec(_grid(request), total_images, number % max(1, count_devices()), watch, known_images)
        return GpuObserver(Path(request["prepared"]["model"]), request["prepared"]["tensors"], spec, report)
    threads = max(1, len(os.sched_getaffinity(0)) // parts)
    spec = ObserverSpec(_grid(request), threads, total_images, watch, known_images)
    return CpuObserver(read_prepared(Path(request["prepared"]["folder"])), spec)


def _grid(request: dict[str, Any]) -> Grid:
    return request["spec"]["calibration"]["grid"]
