"""The benchmark of calibration on a GPU: a plain forward pass, ours on both grids, TensorRT's own, in one run on one card."""

import asyncio
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from app.bench.agreement import compare_amax
from app.bench.prepare import Wanted, prepare
from app.bench.resnet50 import make_resnet50
from app.bench.subject import Subject
from app.child.parent import ChildCall, run_child, run_children
from app.errors import Problem

#: The ResNet-50 of the benchmark has a quarter of the usual channels, so that its kernels are short.
_THIN_WIDTH = 16
_TIMEOUT_SECONDS = 3600
_NATIVE = ("native-entropy", "native-minmax")
_GRIDS = ("mergeable", "tensorrt")


@dataclass(frozen=True)
class GpuOptions:
    """Images a batch, for TensorRT's calibrator, its grid and the plain pass; which tensors; how often ours is measured."""

    batch: int = 8
    observe: str = "all"
    runs: int = 3
    native: bool = True


@dataclass(frozen=True)
class _Bench:
    subject: Subject
    options: GpuOptions
    say: Callable[[str], None]

    def measure(self) -> dict[str, Any]:
        self.say(f"{self.subject.name}: ours, and plain FP32")
        return asyncio.run(run_child(self._observing(_GRIDS, 0)))

    def observe_on_all(self, gpus: int) -> dict[str, Any]:
        """Observe all images on each GPU at the same time: what they do together when a dataset is shared."""
        self.say(f"{self.subject.name}: ours on {gpus} GPUs at once")
        calls = [self._observing(_GRIDS[:1], device) for device in range(gpus)]
        measured = asyncio.run(run_children(calls, lambda _number, _event: None, lambda: None))
        seconds = max(statistics.median(each["ours"][_GRIDS[0]]["seconds"]) for each in measured)
        return {"gpus": gpus, "seconds": seconds, "images_per_second": gpus * self.subject.count / seconds}

    def native(self) -> dict[str, Any]:
        self.say(f"{self.subject.name}: TensorRT's own calibrators")
        try:
            return asyncio.run(run_child(self._call("native", {"methods": _NATIVE})))
        except Problem as problem:
            return {method: {"failed": problem.detail} for method in _NATIVE}

    def _observing(self, grids: tuple[str, ...], device: int) -> ChildCall:
        is_alone = grids == _GRIDS
        asked = {"grids": grids, "plain": is_alone, "observe": self.options.observe, "device": device}
        return self._call("ours", asked | {"runs": self.options.runs})

    def _call(self, step: str, request: dict[str, Any]) -> ChildCall:
        request = request | {"subject": self.subject.to_json(), "batch": self.options.batch}
        return ChildCall(f"app.bench.gpu_steps:{step}", request, "bench", _TIMEOUT_SECONDS)


def default_gpu_net(count: int) -> Wanted:
    """Return the thin ResNet-50, on noise."""
    return Wanted("thin ResNet-50, random weights", None, None, count)


def bench_gpu(wanted: Wanted, options: GpuOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the measurements of one net, as JSON values; seconds are medians of the runs.

    gpu, tensorrt: on what · plain: the FP32 pass with uploads, of the batch size that was asked for and of ours · ours:
    {grid: {start_seconds, seconds, search_seconds, images_per_second, ...}} · native: {method: {..., speedup: {grid: its
    seconds / ours with the search}} or {"failed"}} · ratio: {grid: ours / the faster plain} · together: ours on all GPUs
    at once, or None. Raises Problem.
    """
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        say(f"{wanted.name}: preparing")
        model = wanted.model or _save_thin_resnet50(Path(folder))
        subject = prepare(replace(wanted, model=model), Path(folder))
        return _measured(_Bench(subject, options, say))


def _save_thin_resnet50(folder: Path) -> Path:
    path = folder / "thin-resnet50.onnx"
    onnx.save_model(make_resnet50(width=_THIN_WIDTH), path)
    return path


def _measured(bench: _Bench) -> dict[str, Any]:
    measured = bench.measure()
    native = bench.native() if bench.options.native else {}
    images, amax = bench.subject.count, measured["ours"]["tensorrt"].pop("amax")
    measured["ours"]["mergeable"].pop("amax")
    ours = {grid: _with_medians(found, images) for grid, found in measured["ours"].items()}
    plain = [_with_medians(found, images) for found in measured["plain"]]
    fastest = min(found["seconds"] for found in plain)
    return {
        "net": bench.subject.name,
        "images": images,
        "batch": bench.options.batch,
        **{name: measured[name] for name in ("gpu", "gpus", "tensorrt")},
        "plain": plain,
        "ours": ours,
        "together": bench.observe_on_all(measured["gpus"]) if measured["gpus"] > 1 else None,
        "ratio": {grid: found["seconds"] / fastest for grid, found in ours.items()},
        "native": {method: _compared(found, ours, amax, method) for method, found in native.items()},
    }


def _with_medians(measured: dict[str, Any], images: int) -> dict[str, Any]:
    kept = dict(measured)
    for name in ("seconds", "search_seconds"):
        if name in kept:
            kept |= {name: statistics.median(kept[name]), f"{name}_of_runs": kept[name]}
    return kept | {"images_per_second": images / kept["seconds"]}


def _compared(native: dict[str, Any], ours: dict[str, Any], amax: dict[str, float], method: str) -> dict[str, Any]:
    if "failed" in native:
        return native
    theirs = native.pop("amax")
    speedup = {grid: native["seconds"] / (each["seconds"] + each["search_seconds"]) for grid, each in ours.items()}
    agreement = {"agreement": compare_amax(amax, theirs)} if method == "native-entropy" else {}
    return native | {"speedup": speedup} | agreement
