"""A worker as it is on a GPU machine, with a real database and blobs, and one job in its hands; the GPU is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.blobs.open import open_blobs
from app.blobs.store import sha256_of
from app.db import jobs
from app.db.database import Database
from app.db.jobs import Fence
from app.db.migrate import migrate
from app.db.rows import JobRow, ModelRow, new_id
from app.resolved import ResolvedJob, ResolvedModel, StoredFile, Tools
from app.settings import Settings, StepLimits
from app.spec import JobSpec
from app.worker.context import Run, Worker
from tests.running import MODEL

GPU = {"name": "NVIDIA H200", "driver": "580.65.06", "memory_bytes": 141 << 30, "compute_capability": "9.0"}
BACKENDS: dict[str, Any] = {
    "onnxruntime": {"version": "1.32.0", "compute_capabilities": []},
    "tensorrt": {
        "version": "10.6.0",
        "compute_capabilities": ["9.0"],
        "precisions": ["fp32", "fp16", "int8", "bf16"],
        "quantizations": ["explicit", "implicit"],
        "gpus": [GPU],
    },
}
ENGINE = {"backend": "tensorrt", "precision": "fp16"}
TOOLS = Tools(observer="onnxruntime 1.32.0", decoder="pillow 13", judge="onnxruntime 1.32.0", backend="tensorrt 10.6.0 sm90")


@contextmanager
def gpu_run(folder: Path, **limits: float) -> Iterator[Run]:
    """Give the run of a job that wants an fp16 engine of the digits CNN."""
    database = Database(f"sqlite:///{folder}/app.db")
    migrate(database)
    settings = Settings(data=folder, step_limits=StepLimits(**limits))
    worker = Worker(
        "gpu-worker", settings, database, open_blobs((folder / "blobs").as_uri(), folder / "tmp", None), BACKENDS, TOOLS
    )
    model = _upload(worker, folder)
    spec = JobSpec.model_validate({"model": "digits", "calibration": None, "engine": ENGINE})
    job = ResolvedJob(spec=spec, model=model, dataset=None, judge_dataset=None, tools=TOOLS)
    row = JobRow(
        id=new_id("job"), key=new_id("key"), state="queued", queue="trt10.6-sm90", priority=1, attempt=0, crashes=0,
        resolved=job.model_dump(mode="json"), cache={}, warnings=[], progress_done=0,
    )  # fmt: skip
    with database.transaction() as session:
        jobs.add_job(session, row)
        started = jobs.start_attempt(session, row.id, worker.id)
        assert started is not None
        fence = Fence(row.id, started.attempt)
    work = folder / "work"
    work.mkdir()
    yield Run(worker, fence, job, work)
    database.close()


def job_row(run: Run) -> JobRow:
    """Return the job's row as it is now."""
    with run.worker.database.reading() as session:
        return jobs.get_job(session, run.fence.job_id)


def _upload(worker: Worker, folder: Path) -> ResolvedModel:
    copy = folder / "digits.onnx"
    copy.write_bytes(MODEL.read_bytes())
    size, digest = copy.stat().st_size, sha256_of(copy)
    worker.blobs.put(copy, digest)
    file = StoredFile(name="digits.onnx", sha256=digest, size=size)
    row = ModelRow(id=new_id("mdl"), name="digits", digest=digest, files=[file.model_dump()], facts={"inputs": []}, bytes=size)
    with worker.database.transaction() as session:
        session.add(row)
    return ResolvedModel(id=row.id, name=row.name, digest=digest, files=(file,), inputs=())
