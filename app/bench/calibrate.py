"""The benchmark of calibration: every measurement in a process of its own, every figure a ratio within one run."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bench.agreement import compare_amax
from app.bench.prepare import Wanted, prepare
from app.bench.subject import Subject
from app.child.parent import ChildCall, Take, no_child, run_child
from app.child.process import start_child, wait_until_warm
from app.errors import Problem
from app.worker.context import WARM_UP

#: What a plain forward pass is tried with; the fastest is the yardstick.
PLAIN_SETTINGS = tuple(
    {"threads": threads, "batch": batch}
    for threads in ("one session, all threads", "one thread per core")
    for batch in (1, 8, 16)
)
_ADDED_SHARE = 20
#: It takes so little time that it is measured more often.
_ADDED_TIMES = 3
_PREPARED = "prepared"
#: What a worker runs in processes that it started before.
_OURS = ("ours:", "prepared:")
_TIMEOUT_SECONDS = 4 * 3600


@dataclass(frozen=True)
class Options:
    """Plain and ours are measured `runs` times each, in turns, and the addition of images three times in each turn; other
    calibrators once, or not.

    nvidia-modelopt may live in an environment of its own, for it may ask for other versions of onnx and onnxruntime:
    `modelopt_python` is the interpreter there; by default ours, where it is installed (extra `bench`).
    """

    runs: int = 3
    others: bool = True
    modelopt_python: str | None = None


@dataclass(frozen=True)
class Bench:
    """One net's measurements in `folder`, told to `say` as they begin."""

    subject: Subject
    folder: Path
    options: "Options"
    say: Callable[[str], None]

    def measure(self, step: str, **request: Any) -> dict[str, Any]:
        """Run one measurement in a process of its own. Raises its problem."""
        self.say(
            f"{self.subject.name}: {step.partition(':')[2]} {request.get('threads', '')} {request.get('batch', '')}".rstrip()
        )
        python = request.pop("python", sys.executable)
        request["subject"] = self.subject.to_json()
        call = ChildCall(f"app.bench.{step}", request, "bench", _TIMEOUT_SECONDS, python=python)
        take = _take_warm() if step.startswith(_OURS) else no_child
        began = time.perf_counter()
        measured = asyncio.run(run_child(call, take=take))
        return measured | {"process_seconds": time.perf_counter() - began}

    def observe(self, out: str, images: int | None = None, known: str | None = None) -> dict[str, Any]:
        """Measure our calibration with what `prepare` left."""
        (self.folder / out).unlink(missing_ok=True)  # a worker writes a new file, too: pages of an old one may be on their way
        known_path = str(self.folder / known) if known else None
        return self.measure(
            "ours:observe", prepared=str(self.folder / _PREPARED), images=images, out=str(self.folder / out), known=known_path
        )


def bench_calibrate(wanted: Wanted, options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the measurements of one net, as JSON values.

    plain, ours: medians of {start_seconds, seconds, peak_bytes}; plain also its setting · ratio: ours / plain, of the
    images alone · ratio_with_start: with the loading of the model, ours with its preparation · memory_ratio: while observing ·
    prepare_memory_ratio: of the process that prepares a model once ·
    search_milliseconds: {method: a tensor} · added_images: a twentieth of the images; of fewer than 20 none are added, and
    both shares are None · added_share: what these cost / ours, with start · added_process_share: the same from a call to its
    answer, as a worker waits whose spare process is warm · others: {name: {..., ratio, agreement} or {"failed": why}}.
    Raises Problem.
    """
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        say(f"{wanted.name}: preparing")
        bench = Bench(prepare(wanted, Path(folder)), Path(folder), options, say)
        return _measured(bench)


def _measured(bench: Bench) -> dict[str, Any]:
    prepared = bench.measure("prepared:prepare", observe="needed", out=str(bench.folder / _PREPARED))
    bench.observe("warm", images=2)  # compiles the kernels, where this is the first run on this machine
    tried = [bench.measure("plain:plain", **setting) for setting in PLAIN_SETTINGS]
    best = min(range(len(tried)), key=lambda place: tried[place]["seconds"])
    rounds = [_turn(bench, PLAIN_SETTINGS[best]) for _ in range(bench.options.runs)]
    plain, observed = (_median(each) for each in ([turn[0] for turn in rounds], [turn[1] for turn in rounds]))
    ours = _together(prepared, observed)
    search = bench.measure("ours:search", observation=str(bench.folder / "observation"))
    return {
        "net": bench.subject.name,
        "images": bench.subject.count,
        "tensors": rounds[0][1]["tensors"],
        "runs": bench.options.runs,
        "plain": plain | PLAIN_SETTINGS[best],
        "ours": ours,
        "ratio": ours["seconds"] / plain["seconds"],
        "ratio_with_start": _total(ours) / _total(plain),
        "memory_ratio": ours["peak_bytes"] / plain["peak_bytes"],
        "prepare_memory_ratio": ours["prepare_peak_bytes"] / plain["peak_bytes"],
        "search_milliseconds": search["milliseconds"],
        "added_images": _added_images(bench),
        **_added_shares([each for turn in rounds for each in turn[2]], ours, prepared["process_seconds"]),
        "others": _others(bench, plain, search["amax"]),
    }


def _turn(bench: Bench, setting: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Measure plain, ours and the addition of images in turns, so that a machine that slows down slows all."""
    count = _added_images(bench)
    plain, observed = bench.measure("plain:plain", **setting), bench.observe("observation")
    added = [bench.observe("added", count, known="observation") for _ in range(_ADDED_TIMES if count else 0)]
    return plain, observed, added


def _added_images(bench: Bench) -> int:
    return bench.subject.count // _ADDED_SHARE


def _added_shares(added: list[dict[str, Any]], ours: dict[str, float], prepare_seconds: float) -> dict[str, float | None]:
    if not added:
        return {"added_share": None, "added_process_share": None}
    took, whole = _median(added), prepare_seconds + ours["process_seconds"]
    return {"added_share": _total(took) / _total(ours), "added_process_share": took["process_seconds"] / whole}


def _others(bench: Bench, plain: dict[str, Any], amax: dict[str, float]) -> dict[str, Any]:
    steps = {"onnxruntime Entropy": ("others:ort_entropy", sys.executable)} if bench.options.others else {}
    if bench.options.modelopt_python:
        steps["nvidia-modelopt entropy"] = ("others:modelopt", bench.options.modelopt_python)
    found = {}
    for name, (step, python) in steps.items():
        try:
            found[name] = _compared(bench.measure(step, python=python), plain, amax)
        except (Problem, OSError) as problem:
            found[name] = {"failed": str(problem)}
    return found


def _compared(measured: dict[str, Any], plain: dict[str, Any], amax: dict[str, float]) -> dict[str, Any]:
    theirs = measured.pop("amax")
    ratios = {"ratio": measured["seconds"] / plain["seconds"], "memory_ratio": measured["peak_bytes"] / plain["peak_bytes"]}
    return measured | ratios | {"agreement": compare_amax(amax, theirs)}


def _take_warm() -> Take:
    """Start a process as a worker keeps one, wait until it is warm, and return what gives it."""
    child = start_child(sys.executable, WARM_UP)
    wait_until_warm(child)
    return lambda: child


def _median(measured: list[dict[str, Any]]) -> dict[str, float]:
    names = ("start_seconds", "seconds", "peak_bytes", "process_seconds")
    return {name: statistics.median(each[name] for each in measured) for name in names}


def _together(prepared: dict[str, Any], observed: dict[str, float]) -> dict[str, float]:
    """Return what the two processes of a first calibration took, one after the other; the peak is that of observing."""
    start = prepared["seconds"] + observed["start_seconds"]
    return observed | {"start_seconds": start, "prepare_peak_bytes": prepared["peak_bytes"]}


def _total(measured: dict[str, Any]) -> float:
    return measured["start_seconds"] + measured["seconds"]
