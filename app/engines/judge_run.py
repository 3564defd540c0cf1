"""Run the FP32 model and an INT8 model side by side on the CPU and compare them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from app.engines.backend import Report
from app.engines.onnxruntime import (
    RUNTIME_ERRORS,
    SESSION_OPTIONS,
    OnnxRuntimeRunner,
    open_session,
    open_tested,
    session_options,
)
from app.errors import JudgeProblem
from app.errors.problem import words_of
from app.quant.judge import Comparison

Batches = Iterable[tuple[np.ndarray, Sequence[int | None]]]


@dataclass(frozen=True)
class JudgedModels:
    """The FP32 model and the ONNX file that is tested against it; `images`: how many will come, for the progress."""

    fp32: Path
    tested: Path
    threads: int = 1
    images: int = 0


def judge(models: JudgedModels, batches: Batches, report: Report) -> dict[str, Any]:
    """Return the report of `Comparison.to_json` with judged_by, session_options and disabled_optimizers added.

    `batches` yields float32[N, ...] and for each image its class index or None. For TensorRT-RTX engines `tested` is
    the Q/DQ model that the plan was built from: this machine has no GPU, and the arithmetic is the same.
    Raises JudgeProblem, EngineProblem (a model does not load).
    """
    options, model = session_options(models.threads), onnx.load(models.tested, load_external_data=False)
    reference = OnnxRuntimeRunner(open_session(models.fp32, session_options(models.threads)))
    session, disabled = open_tested(models.tested, model, options)
    tested = OnnxRuntimeRunner(session)
    comparison = Comparison()
    for batch, labels in batches:
        comparison.add(_run(reference, batch, "FP32 model"), _run(tested, batch, "engine"), labels)
        report({"progress": [comparison.images, max(models.images, comparison.images)]})
    about: dict[str, Any] = {
        "judged_by": "onnxruntime",
        "judge_version": onnxruntime.__version__,
        "session_options": dict(SESSION_OPTIONS),
    }
    if disabled:
        about["disabled_optimizers"] = disabled
    return comparison.to_json() | about


def _run(runner: OnnxRuntimeRunner, batch: np.ndarray, side: str) -> dict[str, np.ndarray]:
    try:
        return runner.run(batch)
    except RUNTIME_ERRORS as error:
        raise JudgeProblem(reason=f"the {side} fails on a batch of shape {batch.shape}: {words_of(error)}") from error
