"""Run TensorRT plans on this GPU beside the FP32 model on the CPU, and compare them: the very engines that are served."""

from collections.abc import Mapping
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
    outputs}. Raises JudgeProblem, EngineProblem (a plan does not load), GpuOom, GpuLost.
    """
    reference = OnnxRuntimeRunner(open_session(plans.fp32, session_options(plans.threads)))
    with ExitStack() as stack:
        runners = {name: _open(path, stack) for name, path in ({"tested": plans.tested} | dict(plans.beside)).items()}
        comparisons = {name: Comparison() for name in runners}
        for batch, labels in batches:
            expected = _run_reference(reference, batch)
            for name, runner in runners.items():
                comparisons[name].add(expected, runner.run(batch), labels)
            done = comparisons["tested"].images
            report({"progress": [done, max(plans.images, done)]})
        tested = runners["tested"]
        about = {"judged_by": "tensorrt", "judge_version": tested.version, "gpu": tested.device.name, "session_options": {}}
    return comparisons["tested"].to_json() | about | _beside({name: comparisons[name].to_json() for name in plans.beside})


def _open(path: Path, stack: ExitStack) -> TensorRtRunner:
    runner = TensorRtRunner(path.read_bytes(), lambda _: None)
    stack.callback(runner.close)
    return runner


def _run_reference(reference: OnnxRuntimeRunner, batch: np.ndarray) -> dict[str, np.ndarray]:
    try:
        return reference.run(batch)
    except RUNTIME_ERRORS as error:
        raise JudgeProblem(reason=f"the FP32 model fails on a batch of shape {batch.shape}: {error}") from error


def _beside(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, report in reports.items():
        told[f"accuracy_{name}"] = report["accuracy_int8"]
        told[name] = {kept: report[kept] for kept in ("agreement", "mean_error", "outputs")}
    return told
