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

    def measure(self, step: str, what: str, **request: Any) -> dict[str, Any]:
        self.say(f"{self.subject.name}: {what}")
        return asyncio.run(run_child(self._call(step, request)))

    def observe(self, grid: str) -> dict[str, Any]:
        return self.measure("observe", f"ours, grid {grid}", **self._observing(grid, 0))

    def observe_on_all(self, gpus: int) -> dict[str, Any]:
        """Observe all images on each GPU at the same time: what they do together when a dataset is shared."""
        self.say(f"{self.subject.name}: ours on {gpus} GPUs at once")
        calls = [self._call("observe", self._observing("mergeable", device)) for device in range(gpus)]
        measured = asyncio.run(run_children(calls, lambda _number, _event: None, lambda: None))
        seconds = max(statistics.median(each["seconds"]) for each in measured)
        return {"gpus": gpus, "seconds": seconds, "images_per_second": gpus * self.subject.count / seconds}

    def _observing(self, grid: str, device: int) -> dict[str, Any]:
        return {"grid": grid, "observe": self.options.observe, "batch": self.options.batch, "device": device}

    def _call(self, step: str, request: dict[str, Any]) -> ChildCall:
        request = request | {"subject": self.subject.to_json(), "runs": self.options.runs}
        return ChildCall(f"app.bench.gpu_steps:{step}", request, "bench", _TIMEOUT_SECONDS)

    def plain(self, batch: int) -> dict[str, Any]:
        return self.measure("plain", f"plain FP32, {batch} images a pass", batch=batch)

    def native(self, method: str) -> dict[str, Any]:
        try:
            return self.measure("native", f"TensorRT's {method}", method=method, batch=self.options.batch)
        except Problem as problem:
            return {"failed": problem.detail}


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
    ours = {grid: bench.observe(grid) for grid in _GRIDS}
    passes = sorted({bench.options.batch, *(measured["images_a_pass"] for measured in ours.values())})
    plain = [bench.plain(batch) for batch in passes]
    native = {method: bench.native(method) for method in _NATIVE} if bench.options.native else {}
    facts = {name: plain[0][name] for name in ("gpu", "gpus", "tensorrt")}
    together = bench.observe_on_all(facts["gpus"]) if facts["gpus"] > 1 else None
    amax = {grid: measured.pop("amax") for grid, measured in ours.items()}
    shown = {grid: _with_medians(measured, bench.subject.count) for grid, measured in ours.items()}
    fastest = min(statistics.median(each["seconds"]) for each in plain)
    return facts | {
        "net": bench.subject.name,
        "images": bench.subject.count,
        "batch": bench.options.batch,
        "plain": [_with_medians(each, bench.subject.count) for each in plain],
        "ours": shown,
        "together": together,
        "ratio": {grid: measured["seconds"] / fastest for grid, measured in shown.items()},
        "native": {method: _compared(measured, shown, amax["tensorrt"], method) for method, measured in native.items()},
    }


def _with_medians(measured: dict[str, Any], images: int) -> dict[str, Any]:
    kept = {name: value for name, value in measured.items() if name not in ("gpu", "gpus", "tensorrt")}
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
