"""Which observer a step works with: the resolved one, on its share of the cores or on its own GPU."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.observers.observing import Observer, Report
from app.observers.onnxruntime import Observer as CpuObserver
from app.observers.onnxruntime import ObserverSpec
from app.observers.prepared import read_prepared
from app.quant.observation import Grid, Observation

Watch = Callable[[Observation], None]


def open_observer(request: dict[str, Any], total_images: int, report: Report, watch: Watch | None = None) -> Observer:
    """Return the observer of the step `observe`, whose request says which, and which of how many parts this is.

    Parts run at the same time: on a CPU they share the cores, else part i has GPU i, over and over. `watch` is told what
    is observed as the images double, on a CPU alone.
    """
    prepared, grid = request["prepared"], _grid(request)
    number, parts = request["part"] or (0, 1)
    if request["observer"] == "tensorrt":
        return _open_gpu_observer(prepared, (grid, total_images, number), report)
    threads = max(1, len(os.sched_getaffinity(0)) // parts)
    return CpuObserver(read_prepared(Path(prepared["folder"])), ObserverSpec(grid, threads, total_images, watch))


def _open_gpu_observer(prepared: dict[str, Any], part: tuple[Grid, int, int], report: Report) -> Observer:
    # Neither onnx nor CUDA belongs into a process that observes on the CPU.
    from app.cuda.device import count_devices
    from app.observers.tensorrt import GpuObserver, GpuObserverSpec

    grid, total_images, number = part
    spec = GpuObserverSpec(grid, total_images, number % max(1, count_devices()))
    return GpuObserver(Path(prepared["model"]), prepared["tensors"], spec, report)


def _grid(request: dict[str, Any]) -> Grid:
    return request["spec"]["calibration"]["grid"]
