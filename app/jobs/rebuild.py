"""An engine that exists, once more for another target: the job that built it, with the same uploads."""

from typing import Any

from app.db import jobs, results
from app.engines.targets import Target
from app.errors import NotFound
from app.jobs.context import Service
from app.jobs.submit import Submitted, submit
from app.resolved import ResolvedJob
from app.spec import JobSpec


def rebuild(service: Service, engine_id: str, target: Target, wait_for_worker_seconds: int) -> Submitted:
    """Submit the newest job that gave this engine for another GPU or TensorRT version. Raises NotFound and what submit does."""
    with service.database.reading() as session:
        engine = results.get_engine(session, engine_id)
        row = jobs.find_job_of_engine(session, engine.id)
    if row is None:
        raise NotFound(kind="job", name=f"of engine {engine_id}")
    job = ResolvedJob.model_validate(row.resolved)
    changed = _uploads(job) | {"wait_for_worker_seconds": wait_for_worker_seconds, "engine": _engine(job, target)}
    return submit(service, JobSpec.model_validate(job.spec.model_dump(mode="json") | changed))


def _engine(job: ResolvedJob, target: Target) -> dict[str, Any]:
    assert job.spec.engine is not None
    engine = job.spec.engine.model_dump(mode="json")
    if target.tensorrt_version and engine["backend"] == "tensorrt-rtx":
        # TensorRT reads no plan of TensorRT-RTX, and builds for one GPU, not for a list.
        engine |= {"backend": "tensorrt", "compute_capability": None}
    wanted = {"compute_capability": target.compute_capability, "tensorrt_version": target.tensorrt_version}
    return engine | {name: value for name, value in wanted.items() if value}


def _uploads(job: ResolvedJob) -> dict[str, Any]:
    # By id: a name may point to a later upload by now.
    judge = job.spec.judge.model_dump(mode="json")
    judge["dataset"] = job.judge_dataset.id if job.judge_dataset else None
    return {"model": job.model.id, "dataset": job.dataset.id if job.dataset else None, "judge": judge}
