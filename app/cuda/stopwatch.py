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

_ROUNDS = 20
_RUNS_A_ROUND = 50
_WARM_RUNS = 100


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of a batch: the median and the 99th percentile of `runs`."""

    median_ms: float
    p99_ms: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values, rounded to the microsecond's tenth."""
        return {"median_ms": round(self.median_ms, 4), "p99_ms": round(self.p99_ms, 4), "runs": self.runs}


def time_executions(executions: Mapping[str, Execution], rounds: int = _ROUNDS) -> dict[str, Latency]:
    """Return the latency of each at the shapes that it has taken, without uploads and downloads."""
    with raising_gpu_problems():
        graphs = {name: _capture(execution) for name, execution in executions.items()}
        taken: dict[str, list[float]] = {name: [] for name in executions}
        for _ in range(rounds):
            for name, execution in executions.items():
                taken[name].extend(_time_round(graphs[name], execution))
        for graph in graphs.values():
            graph.free()
    return {name: _latency(times) for name, times in taken.items()}


def _capture(execution: Execution) -> CudaGraph:
    execution.enqueue()  # TensorRT allocates in its first run, which a capture forbids
    execution.stream.synchronize()
    graph = CudaGraph(execution.enqueue, execution.stream)
    for _ in range(_WARM_RUNS):
        graph.launch()
    execution.stream.synchronize()
    return graph


def _time_round(graph: CudaGraph, execution: Execution) -> list[float]:
    marks = [open_event() for _ in range(_RUNS_A_ROUND + 1)]
    graph.launch()  # the first run after another plan's finds its weights gone from the cache
    marks[0].record(execution.stream)
    for mark in marks[1:]:
        graph.launch()
        mark.record(execution.stream)
    marks[-1].synchronize()
    return [end.time_since(start) for start, end in pairwise(marks)]


def _latency(times: list[float]) -> Latency:
    return Latency(float(np.median(times)), float(np.percentile(times, 99)), len(times))
