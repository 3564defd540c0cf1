"""Learn from calibration images how a Q/DQ model is tuned."""

import os
from collections.abc import Callable
from typing import Any

from app import keys
from app.engines.sensitivity import QuantizedPair
from app.engines.tune import Known, Learned, Tuner, TuneSpec
from app.inputs.listing import select_evenly
from app.spec import JobSpec
from app.worker.steps.images import Selection, open_batches, tuning_files

Report = Callable[[dict[str, Any]], None]

#: Every input of every INT8 node is held for a batch.
_BATCH = 2


def learn(pair: QuantizedPair, request: dict[str, Any], report: Report, known: Known) -> Learned:
    """Return what up to 64 of the calibration images say, spread evenly over the sorted paths; see `Tuner.learn` for `known`.

    request: {"dataset": {"listing", "packs"}, "calibration": see `judge_files`, "spec": JobSpec, "limits": InputLimits}.
    Raises EngineProblem, ImageCorrupt.
    """
    spec = JobSpec.model_validate(request["spec"])
    every = tuning_files(request, spec)
    files = select_evenly(every, keys.TUNE_IMAGES)
    tuned = TuneSpec(
        corrects_bias=spec.quantize.bias_correction,
        rounds_weights=spec.quantize.weight_rounding == "gptq",
        images=len(files),
        threads=len(os.sched_getaffinity(0)),
    )
    if not known:
        report({"log": f"tuning on {len(files)} calibration images"})
    batches = Selection(files, len(every), _BATCH)
    return Tuner(pair.float_model, pair.quantized, tuned).learn(
        lambda: iter(open_batches(request, request["dataset"], batches)), report, known
    )
