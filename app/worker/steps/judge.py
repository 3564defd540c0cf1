"""The step judge: FP32 and INT8 side by side on images that were not calibrated on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.engines.judge_run import JudgedModels
from app.engines.judge_run import judge as judge_models
from app.spec import JobSpec
from app.worker.steps.images import judge_files, labelled_batches

Report = Callable[[dict[str, Any]], None]


def judge(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Return the report: agreement, accuracy with labels, cosine and SQNR of each output, and what was judged on.

    request: {"model": FP32 path, "tested": INT8 path, "judge": {"listing", "packs"}, "calibration": listing or None,
    "spec": JobSpec, "limits": InputLimits}. Raises JudgeProblem, EngineProblem, ImageCorrupt.
    """
    return judge_file(request, Path(request["tested"]), report)


def judge_file(request: dict[str, Any], tested: Path, report: Report) -> dict[str, Any]:
    """Return the report of one INT8 model of the request."""
    files, source = judge_files(request, JobSpec.model_validate(request["spec"]))
    models = JudgedModels(Path(request["model"]), tested, len(os.sched_getaffinity(0)), len(files))
    measured = judge_models(models, labelled_batches(request, "judge", files), report)
    return measured | {"judged_on": source}
