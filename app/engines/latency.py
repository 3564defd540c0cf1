"""How long a batch takes in each precision, on the machine that built the plans."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.cuda.device import Device, open_device
from app.cuda.execution import Execution
from app.cuda.nvml import find_clocks
from app.cuda.runtime import open_tensorrt
from app.cuda.stopwatch import Latency, time_executions
from app.engines.onnxruntime import OnnxRuntimeRunner, open_session, session_options
from app.errors import EngineProblem

_CPU_RUNS = 60
_CPU_WARM_RUNS = 5
_CPU_SECONDS = 10.0


def measure_plans(plans: Mapping[str, Path]) -> dict[str, Any]:
    """Return {"batch", "precisions": {name: {median_ms, p99_ms, runs, images_per_second}}, "gpu", "clock", "how"} of plans.

    Each runs at the usual shapes of its profile; they take turns, as CUDA graphs between events, without copies.
    Raises EngineProblem, GpuOom, GpuLost.
    """
    with open_device() as device:
        tensorrt = open_tensorrt(lambda _: None)
        executions = {name: Execution(tensorrt, path.read_bytes()) for name, path in plans.items()}
        batches = {name: _take_usual_shapes(execution) for name, execution in executions.items()}
        latencies = time_executions(executions)
        about = {"gpu": device.name, "clock": _clock(device), "how": "CUDA events around each launch, the plans in turns"}
        for execution in executions.values():
            execution.close()
    return _figures(latencies, min(batches.values())) | about


def measure_models(models: Mapping[str, Path], shape: tuple[int, ...], threads: int) -> dict[str, Any]:
    """Return the same of ONNX files in ONNX Runtime on this CPU: wall clock, the models taking turns."""
    sessions = {name: open_session(path, session_options(threads)) for name, path in models.items()}
    runners = {name: OnnxRuntimeRunner(session) for name, session in sessions.items()}
    batch = np.random.default_rng(0).standard_normal(shape, np.float32)
    taken: dict[str, list[float]] = {name: [] for name in runners}
    began = time.monotonic()
    for number in range(_CPU_WARM_RUNS + _CPU_RUNS):
        for name, runner in runners.items():
            started = time.perf_counter()
            runner.run(batch)
            taken[name].append(1000 * (time.perf_counter() - started))
        if number > _CPU_WARM_RUNS and time.monotonic() - began > _CPU_SECONDS:
            break
    latencies = {name: _latency(times[_CPU_WARM_RUNS:]) for name, times in taken.items()}
    return _figures(latencies, shape[0]) | {"gpu": None, "clock": None, "how": f"wall clock, {threads} threads, in turns"}


def _take_usual_shapes(execution: Execution) -> int:
    shapes = {name: execution.span(name).usual for name in execution.inputs}
    if not shapes:
        raise EngineProblem(backend="tensorrt", reason="the plan has no inputs")
    execution.take_shapes(shapes)
    return next(iter(shapes.values()))[0]


def _clock(device: Device) -> dict[str, int] | None:
    """Return the clocks right after the measurement; a GPU below its largest may be hot, or held down."""
    return find_clocks(device.pci)


def _latency(times: list[float]) -> Latency:
    return Latency(float(np.median(times)), float(np.percentile(times, 99)), len(times), "run")


def _figures(latencies: Mapping[str, Latency], batch: int) -> dict[str, Any]:
    told = {
        name: latency.to_json() | {"images_per_second": round(1000 * batch / latency.median_ms)}
        for name, latency in latencies.items()
    }
    return {"batch": batch, "precisions": told}
