"""Time plans on the GPU: CUDA graphs of single runs between events, the plans taking turns so that clocks are fair."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from app.cuda.buffers import open_event
from app.cuda.device import raising_gpu_problems
from app.cuda.execution import Execution
from app.cuda.graph import CudaGraph
from app.errors import EngineProblem, WorkerProblem

_ROUNDS = 20
_RUNS_A_ROUND = 50
_WARM_RUNS = 100


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of a batch: the median and the 99th percentile of `runs`; how each was started."""

    median_ms: float
    p99_ms: float
    runs: int
    launch: str

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, rounded to the microsecond's tenth."""
        rounded = {"median_ms": round(self.median_ms, 4), "p99_ms": round(self.p99_ms, 4)}
        return rounded | {"runs": self.runs, "launch": self.launch}


def time_executions(executions: Mapping[str, Execution], rounds: int = _ROUNDS) -> dict[str, Latency]:
    """Return the latency of each at the shapes that it has taken, without uploads and downloads."""
    with raising_gpu_problems():
        launches = {name: _capture(execution) for name, execution in executions.items()}
        taken: dict[str, list[float]] = {name: [] for name in executions}
        for _ in range(rounds):
            for name, execution in executions.items():
                taken[name].extend(_time_round(launches[name], execution))
        for launch in launches.values():
            launch.free()
    return {name: _latency(times, launches[name]) for name, times in taken.items()}


class _Enqueue:
    """A launch without a CUDA graph: plans with loops or conditions look at values on the host, which no graph can."""

    def __init__(self, execution: Execution) -> None:
        self.launch = execution.enqueue

    def free(self) -> None:
        pass


def _capture(execution: Execution) -> "CudaGraph | _Enqueue":
    execution.enqueue()  # TensorRT allocates in its first run, which a capture forbids
    execution.stream.synchronize()
    try:
        launch = CudaGraph(execution.enqueue, execution.stream)
    except (EngineProblem, WorkerProblem):
        launch = _Enqueue(execution)
    for _ in range(_WARM_RUNS):
        launch.launch()
    execution.stream.synchronize()
    return launch


def _time_round(launch: "CudaGraph | _Enqueue", execution: Execution) -> list[float]:
    marks = [open_event() for _ in range(_RUNS_A_ROUND + 1)]
    launch.launch()  # the first run after another plan's finds its weights gone from the cache
    marks[0].record(execution.stream)
    for mark in marks[1:]:
        launch.launch()
        mark.record(execution.stream)
    marks[-1].synchronize()
    return [end.time_since(start) for start, end in pairwise(marks)]


def _latency(times: list[float], launch: "CudaGraph | _Enqueue") -> Latency:
    kind = "cuda graph" if isinstance(launch, CudaGraph) else "enqueue"
    return Latency(float(np.median(times)), float(np.percentile(times, 99)), len(times), kind)
