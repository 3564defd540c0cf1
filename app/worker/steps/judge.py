"""The step judge: FP32 and INT8 side by side on images that were not calibrated on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.engines.judge_plans import JudgedPlans, judge_plans
from app.engines.judge_run import JudgedModels
from app.engines.judge_run import judge as judge_models
from app.engines.latency import measure_plans
from app.spec import JobSpec
from app.worker.steps.images import judge_files, labelled_batches

Report = Callable[[dict[str, Any]], None]


def judge(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Return the report: agreement, accuracy with labels, cosine and SQNR of each output, and what was judged on.

    request: {"model": FP32 path, "tested": INT8 path, "spec": JobSpec, "limits": InputLimits} and what `judge_files` takes
    of it. Raises JudgeProblem, EngineProblem, ImageCorrupt.
    """
    return judge_file(request, Path(request["tested"]), report)


def judge_on_gpu(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Return the report of a TensorRT plan and of those beside it, and as `latency` the times of the timed ones.

    request: that of `judge`, and {"beside": {precision: path}, "timed": {precision: path} or {}}: in one process, since
    TensorRT takes seconds to start.
    """
    files, source = judge_files(request, JobSpec.model_validate(request["spec"]))
    beside = {name: Path(path) for name, path in request["beside"].items()}
    threads = len(os.sched_getaffinity(0))
    plans = JudgedPlans(Path(request["model"]), Path(request["tested"]), beside, threads, len(files))
    measured = judge_plans(plans, labelled_batches(request, "judge", files), report) | {"judged_on": source}
    timed = {name: Path(path) for name, path in request["timed"].items()}
    return measured | ({"latency": measure_plans(timed)} if timed else {})


def judge_file(request: dict[str, Any], tested: Path, report: Report) -> dict[str, Any]:
    """Return the report of one INT8 model of the request."""
    files, source = judge_files(request, JobSpec.model_validate(request["spec"]))
    models = JudgedModels(Path(request["model"]), tested, len(os.sched_getaffinity(0)), len(files))
    measured = judge_models(models, labelled_batches(request, "judge", files), report)
    return measured | {"judged_on": source}
