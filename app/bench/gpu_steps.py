"""What is measured on a GPU: our calibration and a plain forward pass in one process, TensorRT's own in another.

Images are in memory before the clock runs, and everything that goes before the first of them counts as the start.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.bench.meter import milliseconds
from app.bench.subject import Batch, Subject
from app.cuda.device import count_devices, open_device
from app.cuda.runtime import open_tensorrt
from app.engines.native import NativeCalibration, calibrate_natively
from app.errors import EngineProblem
from app.observers.gpu_forward import GpuForward
from app.observers.gpu_model import PassModel
from app.observers.tensorrt import GpuObserver, GpuObserverSpec
from app.quant.graph import find_activations, find_needed_tensors
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt, mergeable_from_values
from app.quant.native_cache import scales_from_native_cache
from app.quant.observation import Observation
from app.quant.table import table_from_observation
from app.quant.thresholds import compute_amax, parse_method
from app.spec import DERIVED_METHODS

Report = Callable[[dict[str, Any]], None]

#: What TensorRT logs when its calibrator is done and the build goes on.
_CALIBRATED = re.compile(r"Calibration completed in|Writing Calibration Cache")


def _time_passes(subject: Subject, batch: int, request: dict[str, Any]) -> dict[str, Any]:
    batches = list(subject.batches(batch))
    with open_device(request["device"]):
        began = time.perf_counter()
        model = onnx.load(subject.model)
        outputs = [output.name for output in model.graph.output]
        forward = PassModel(open_tensorrt(lambda _: None), model, outputs).open(batches[0].shape)
        _run_all(forward, batches[:2])  # TensorRT loads its kernels in the first pass
        start = time.perf_counter() - began
        seconds = [milliseconds(lambda: _run_all(forward, batches)) / 1000 for _ in range(request["runs"])]
        forward.free()
    return {"batch": batch, "start_seconds": start, "seconds": seconds}


def _run_all(forward: GpuForward, batches: list[Batch]) -> None:
    for number, batch in enumerate(batches):
        slot = number % len(forward.slots)
        forward.fill(slot, 0, batch)
        forward.run(slot, len(batch))
        forward.release(slot)
    forward.stream.synchronize()


def ours(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Calibrate by the GPU observer on each grid, and run the plain FP32 model, uploads included, on the same images.

    request: {"subject", "grids", "plain": whether to, "observe": needed or all, "batch", "runs", "device"}. Returns {"gpu",
    "gpus", "tensorrt", "ours": {grid: {"start_seconds", "seconds": of each run, "search_seconds", "amax", ...}}, "plain":
    [{"batch", "start_seconds", "seconds": of each run}]}, plain of the batch size and of those that ours took. seconds are
    from the first image to the histograms, search_seconds from there to the entropy table.
    """
    subject = Subject.from_json(request["subject"])
    _load_searches()
    measured = {grid: _observe(subject, request | {"grid": grid}, report) for grid in request["grids"]}
    passes = {request["batch"], *(found["images_a_pass"] for found in measured.values())} if request["plain"] else set()
    plain = [_time_passes(subject, batch, request) for batch in sorted(passes)]
    with open_device(request["device"]) as device:
        facts = {"gpu": device.to_json(), "gpus": count_devices()}
    return facts | {"tensorrt": open_tensorrt(report).version, "ours": measured, "plain": plain}


def _observe(subject: Subject, request: dict[str, Any], report: Report) -> dict[str, Any]:
    batches = list(subject.batches(request["batch"]))
    tensors = _tensors(Path(subject.model), request["observe"])
    spec = GpuObserverSpec(request["grid"], device=request["device"])
    began = time.perf_counter()
    with GpuObserver(Path(subject.model), tensors, spec, report) as observer:
        observer.open(batches[0].shape)
        start = time.perf_counter() - began
        runs = [_observe_once(observer, batches) for _ in range(request["runs"])]
        images_a_pass = observer.images_a_pass
    observation = runs[0][1]
    return {
        "start_seconds": start,
        "seconds": [seconds for seconds, _ in runs],
        "search_seconds": [_search(found, "entropy") for _, found in runs],
        "all_methods_seconds": sum(_search(observation, method) for method in DERIVED_METHODS),
        "images_a_pass": images_a_pass,
        "tensors": len(tensors),
        "amax": table_from_observation(observation, "entropy").amax,
    }


def _observe_once(observer: GpuObserver, batches: list[Batch]) -> tuple[float, Observation]:
    observer.restart()
    started = time.perf_counter()
    for batch in batches:
        observer.add(batch)
    observation = observer.observation()
    return time.perf_counter() - started, observation


def _tensors(model: Path, wanted: str) -> list[str]:
    loaded = onnx.load(model)
    return find_activations(loaded) if wanted == "all" else find_needed_tensors(loaded)


def _load_searches() -> None:
    # Compiled code is loaded at its first call, which belongs to the start.
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    for histogram in (mergeable_from_values(values), add_tensorrt_batch(empty_tensorrt(), values)):
        for method in DERIVED_METHODS:
            compute_amax(histogram, parse_method(method))


def _search(observation: Observation, method: str) -> float:
    return milliseconds(lambda: table_from_observation(observation, method)) / 1000


class _Watch:
    """When TensorRT asked for the first batch, and when it said that the calibration was done."""

    def __init__(self, batches: list[Batch], report: Report) -> None:
        self._batches, self._report = batches, report
        self.first_at = self.ended_at = 0.0

    def batches(self) -> Iterator[Batch]:
        self.first_at = time.perf_counter()
        yield from self._batches

    def report(self, event: dict[str, Any]) -> None:
        if not self.ended_at and _CALIBRATED.search(event.get("log", "")):
            self.ended_at = time.perf_counter()


def native(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Calibrate by TensorRT's own calibrators; return {method: {"start_seconds", "seconds", "amax", "tensors"}}.

    request: {"subject", "methods": of native-entropy, native-minmax, "batch"}. seconds are from the first batch that
    TensorRT asks for until it has written its cache; the build that follows is not counted. Raises EngineProblem where
    TensorRT does not say when that was.
    """
    subject = Subject.from_json(request["subject"])
    batches = list(subject.batches(request["batch"]))
    return {method: _calibrate(subject, method, batches, report) for method in request["methods"]}


def _calibrate(subject: Subject, method: str, batches: list[Batch], report: Report) -> dict[str, Any]:
    watch = _Watch(batches, report)
    model = onnx.load(subject.model)
    spec = NativeCalibration(Path(subject.model), method, model.graph.input[0].name, batches[0].shape)
    began = time.perf_counter()
    text, facts = calibrate_natively(spec, watch.batches(), watch.report)
    if not watch.ended_at:
        raise EngineProblem(backend="tensorrt", reason="its log does not say when the calibration ended")
    scales, _ = scales_from_native_cache(text, find_activations(model))
    return {
        "start_seconds": watch.first_at - began,
        "seconds": watch.ended_at - watch.first_at,
        "tensors": len(scales),
        "batches": facts["batches"],
        "amax": {name: 127 * float(scale) for name, scale in scales.items()},
    }
