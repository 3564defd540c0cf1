"""Run TensorRT plans on this GPU beside the FP32 model on the CPU, and compare them: the very engines that are served."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.engines.backend import Report
from app.engines.judge_run import Batches
from app.engines.onnxruntime import RUNTIME_ERRORS, OnnxRuntimeRunner, open_session, session_options
from app.engines.tensorrt import TensorRtRunner
from app.errors import JudgeProblem
from app.errors.problem import words_of
from app.quant.judge import Comparison


@dataclass(frozen=True)
class JudgedPlans:
    """The FP32 model, the plan that is tested against it, and plans that are measured beside, by their precision."""

    fp32: Path
    tested: Path
    beside: Mapping[str, Path]
    threads: int = 1
    images: int = 0


def judge_plans(plans: JudgedPlans, batches: Batches, report: Report) -> dict[str, Any]:
    """Return the report of `Comparison.to_json` of the tested plan, and of those beside what they reached.

    Adds judged_by, judge_version, gpu and, for each plan beside, `accuracy_fp16` and `fp16`: {agreement, mean_error,
    outputs, problem: why it cannot be compared, else null}. Raises JudgeProblem of the tested plan, EngineProblem (a
    plan does not load), GpuOom, GpuLost.
    """
    reference = OnnxRuntimeRunner(open_session(plans.fp32, session_options(plans.threads)))
    with ExitStack() as stack:
        tested = _open(plans.tested, stack)
        beside = {name: _Beside(_open(path, stack)) for name, path in plans.beside.items()}
        comparison = Comparison()
        for batch, labels in batches:
            expected = _run_reference(reference, batch)
            comparison.add(expected, tested.run(batch), labels)
            for other in beside.values():
                other.add(expected, batch, labels)
            report({"progress": [comparison.images, max(plans.images, comparison.images)]})
        about = {"judged_by": "tensorrt", "judge_version": tested.version, "gpu": tested.device.name, "session_options": {}}
    told: dict[str, Any] = {}
    for name, other in beside.items():
        told |= other.to_json(name)
    return comparison.to_json() | about | told


class _Beside:
    """A plan that is measured beside the tested one; where it overflows, that is a finding and no failure of the job."""

    def __init__(self, runner: TensorRtRunner) -> None:
        self._runner, self._comparison = runner, Comparison()
        self._problem: str | None = None

    def add(self, expected: dict[str, np.ndarray], batch: np.ndarray, labels: Sequence[int | None]) -> None:
        if self._problem is not None:
            return
        try:
            self._comparison.add(expected, self._runner.run(batch), labels)
        except JudgeProblem as problem:
            self._problem = problem.detail

    def to_json(self, name: str) -> dict[str, Any]:
        if self._problem is not None:
            return {f"accuracy_{name}": None, name: {"problem": self._problem}}
        report = self._comparison.to_json()
        kept = {field: report[field] for field in ("agreement", "mean_error", "outputs")}
        return {f"accuracy_{name}": report["accuracy_int8"], name: kept | {"problem": None}}


def _open(path: Path, stack: ExitStack) -> TensorRtRunner:
    runner = TensorRtRunner(path.read_bytes(), lambda _: None)
    stack.callback(runner.close)
    return runner


def _run_reference(reference: OnnxRuntimeRunner, batch: np.ndarray) -> dict[str, np.ndarray]:
    try:
        return reference.run(batch)
    except RUNTIME_ERRORS as error:
        raise JudgeProblem(reason=f"the FP32 model fails on a batch of shape {batch.shape}: {words_of(error)}") from error
