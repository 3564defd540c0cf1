"""A worker as it is on a GPU machine, with a real database and blobs, and one job in its hands; the GPU is not there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.blobs.open import open_blobs
from app.blobs.store import sha256_of
from app.db import jobs, results
from app.db.database import Database
from app.db.jobs import Fence
from app.db.migrate import migrate
from app.db.rows import DatasetRow, JobRow, ModelRow, TableRow, new_id
from app.quant.table import table_from_scales, table_to_json
from app.resolved import ResolvedDataset, ResolvedJob, ResolvedModel, StoredFile, Tools
from app.settings import Settings, StepLimits
from app.spec import JobSpec
from app.worker.context import Run, Worker
from tests.quant.samples import parse_oracle
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
def gpu_run(folder: Path, job: dict[str, Any] | None = None, **limits: float) -> Iterator[Run]:
    """Give the run of a job of the digits CNN: by default one that wants an fp16 engine."""
    database = Database(f"sqlite:///{folder}/app.db")
    migrate(database)
    settings = Settings(data=folder, step_limits=StepLimits(**limits))
    worker = Worker(
        "gpu-worker", settings, database, open_blobs((folder / "blobs").as_uri(), folder / "tmp", None), BACKENDS, TOOLS
    )
    model = _upload(worker, folder)
    spec = JobSpec.model_validate({"model": "digits", "calibration": None, "engine": ENGINE} | (job or {}))
    resolved = ResolvedJob(
        spec=spec, model=model, dataset=_dataset(worker, folder) if spec.dataset else None, judge_dataset=None, tools=TOOLS
    )
    row = JobRow(
        id=new_id("job"), key=new_id("key"), state="queued", queue="trt10.6-sm90", priority=1, attempt=0, crashes=0,
        resolved=resolved.model_dump(mode="json"), cache={}, warnings=[], progress_done=0,
    )  # fmt: skip
    with database.transaction() as session:
        jobs.add_job(session, row)
        started = jobs.start_attempt(session, row.id, worker.id)
        assert started is not None
        fence = Fence(row.id, started.attempt)
    work = folder / "work"
    work.mkdir()
    yield Run(worker, fence, resolved, work)
    database.close()


def job_row(run: Run) -> JobRow:
    """Return the job's row as it is now."""
    with run.worker.database.reading() as session:
        return jobs.get_job(session, run.fence.job_id)


def save_table(run: Run) -> TableRow:
    """Store TensorRT's own min-max table of the digits CNN as the job's and return its row."""
    path = run.folder / "table"
    table = table_from_scales({name: float(scale) for name, scale in parse_oracle("minmax").items()})
    path.write_text(json.dumps(table_to_json(table)), encoding="utf-8")
    row = TableRow(
        key=new_id("key"), origin="computed", method="minmax", model_id=run.job.model.id, dataset_id=None, observation_key=None,
        body=run.keep(path), facts={},
    )  # fmt: skip
    with run.worker.database.transaction() as session:
        return results.save_table(session, row)


def _dataset(worker: Worker, folder: Path) -> ResolvedDataset:
    listing = folder / "listing"
    listing.write_text('{"files": []}', encoding="utf-8")
    digest = sha256_of(listing)
    worker.blobs.put(listing, digest)
    row = DatasetRow(id="dst_1", name="d", digest="b" * 64, listing=digest, packs=[], images=9, bytes=1, labels=None, ignored=0)
    with worker.database.transaction() as session:
        session.add(row)
    return ResolvedDataset(id="dst_1", name="d", digest="b" * 64, listing=digest, packs=(), images=9, labelled=False)


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
