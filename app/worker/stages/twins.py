"""The same model in another precision, for the same worker: an engine of its own, found by its key or built."""

from dataclasses import replace

from app.db.rows import EngineRow
from app.spec import Precision, QuantizeSpec
from app.worker.context import Run
from app.worker.stages.build import find_or_build


def find_or_build_twin(run: Run, precision: Precision) -> EngineRow:
    """Return the job's engine in fp16 or fp32: the one that a job for it would get."""
    spec = run.job.spec
    assert spec.engine is not None
    engine = spec.engine.model_copy(update={"precision": precision, "quantization": "explicit"})
    twin = spec.model_copy(update={"engine": engine, "calibration": None, "quantize": QuantizeSpec()})
    return find_or_build(replace(run, job=run.job.model_copy(update={"spec": twin})), None)
