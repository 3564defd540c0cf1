"""From what a user asked to what will be done: names become digests, every default is decided, before any long work."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from app.db import results, uploads, workers
from app.db.database import Session
from app.db.rows import DatasetRow, ModelRow, TableRow, WorkerRow
from app.errors import SpecProblem, WorkerUnavailable
from app.inputs.preprocess import resolve_preprocess, resolve_shapes
from app.jobs.checks import check_gate_can_be_told, check_spec
from app.resolved import ResolvedDataset, ResolvedJob, ResolvedModel, StoredFile, Tools
from app.settings import Settings
from app.spec import EngineSpec, JobSpec

#: `engine.backend` left out takes the first of these that a live worker has.
_DEFAULT_BACKENDS = ("tensorrt", "onnxruntime")
_QUEUES = {"onnxruntime": "cpu", "tensorrt-rtx": "rtx"}


@dataclass(frozen=True)
class Fleet:
    """The live workers, newest first; `is_starting`: the server's own worker is on its way."""

    workers: tuple[WorkerRow, ...]
    is_starting: bool = False

    @property
    def queues(self) -> set[str]:
        return {queue for worker in self.workers for queue in worker.queues}

    def find_queue(self, backend: str) -> str | None:
        """Return the queue of a live worker that has this backend."""
        if backend in _QUEUES:
            return _QUEUES[backend] if _QUEUES[backend] in self.queues else None
        return next((queue for queue in sorted(self.queues) if queue.startswith("trt")), None)

    def tools(self, queue: str, backend: str | None) -> Tools:
        """Return the tools of the newest live worker of a queue; of this installation where there is none."""
        for worker in self.workers:
            if queue in worker.queues:
                known = worker.facts["backends"].get(backend or "")
                made = f"{backend} {known['version']}" if known else None
                return Tools.model_validate(worker.facts["tools"] | {"backend": made})
        return installed_tools()


def live_fleet(session: Session, settings: Settings) -> Fleet:
    """Return the workers whose heartbeat is young enough."""
    alive = [row for row, age in workers.list_workers(session) if age < settings.dead_after_seconds and row.queues]
    newest_first = sorted(alive, key=lambda row: row.started_at, reverse=True)
    return Fleet(tuple(newest_first), is_starting=settings.worker and not alive)


def installed_tools() -> Tools:
    """Return the versions of what is installed here."""
    runtime = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    return Tools(observer=runtime, decoder=f"pillow {importlib.metadata.version('pillow')}", judge=runtime, backend=None)


@dataclass(frozen=True)
class JobRows:
    """The uploads that a job names; rows that are not stored yet may be asked about as well."""

    model: ModelRow
    dataset: DatasetRow | None
    judge_dataset: DatasetRow | None


def resolve_job(session: Session, spec: JobSpec, fleet: Fleet) -> tuple[ResolvedJob, str]:
    """Return the resolved job and its queue.

    Raises NotFound, SpecProblem for a table that does not fit, and what `resolve_rows` raises.
    """
    rows = JobRows(
        model=uploads.get_upload(session, ModelRow, spec.model),
        dataset=uploads.get_upload(session, DatasetRow, spec.dataset) if spec.dataset else None,
        judge_dataset=uploads.get_upload(session, DatasetRow, spec.judge.dataset) if spec.judge.dataset else None,
    )
    if spec.table is not None:
        _check_table(session, results.get_table(session, spec.table), rows.model, spec)
    return resolve_rows(spec, rows, fleet)


def resolve_rows(spec: JobSpec, rows: JobRows, fleet: Fleet) -> tuple[ResolvedJob, str]:
    """Return the resolved job and its queue.

    Raises SpecProblem, UnsupportedOption, PreprocessRequired, InputLayoutMismatch, ShapeProfileRequired,
    ShapeProfileInvalid, DatasetTooSmall, ComputeCapability... and WorkerUnavailable, all before any work.
    """
    spec = _decide(spec, rows, fleet)
    check_spec(spec, rows.model.facts["inputs"], rows.dataset.images if rows.dataset else None)
    queue = _queue(spec, fleet)
    job = ResolvedJob(
        spec=spec, model=resolved_model(rows.model), dataset=_dataset(rows.dataset), judge_dataset=_dataset(rows.judge_dataset),
        tools=fleet.tools(queue, spec.engine.backend if spec.engine else None),
    )  # fmt: skip
    check_gate_can_be_told(job)
    return job, queue


def _check_table(session: Session, table: TableRow, model: ModelRow, spec: JobSpec) -> None:
    if uploads.get_upload(session, ModelRow, table.model_id).digest != model.digest:
        raise SpecProblem(reason=f"table {table.id} is of another model than {model.name}, or of another version of it")
    if is_equalized(table) != spec.quantize.equalize:
        raise SpecProblem(reason=f"quantize.equalize must be {is_equalized(table)} with table {table.id}: so it was observed")


def is_equalized(table: TableRow) -> bool:
    """Return whether a table was observed on the model with equalized weights."""
    return bool((table.facts.get("observation") or {}).get("equalize"))


def _decide(spec: JobSpec, rows: JobRows, fleet: Fleet) -> JobSpec:
    decided: dict[str, Any] = {}
    inputs = rows.model.facts["inputs"]
    if rows.dataset or rows.judge_dataset:
        decided["preprocess"] = resolve_preprocess(spec.preprocess, inputs)
    if spec.engine is not None:
        backend = spec.engine.backend or _default_backend(fleet)
        shapes = resolve_shapes(spec.engine.shapes, inputs)
        decided["engine"] = EngineSpec.model_validate(spec.engine.model_dump() | {"backend": backend, "shapes": shapes})
    if spec.engine is not None and not spec.is_quantized:
        decided["calibration"] = None  # a float engine needs no table, so none is computed by the way
    elif (
        spec.calibration and spec.calibration.max_images and rows.dataset and spec.calibration.max_images >= rows.dataset.images
    ):
        decided["calibration"] = spec.calibration.model_copy(update={"max_images": None})  # all of them is all of them
    return spec.model_copy(update=decided)


def _default_backend(fleet: Fleet) -> str:
    return next((backend for backend in _DEFAULT_BACKENDS if fleet.find_queue(backend)), "onnxruntime")


def _queue(spec: JobSpec, fleet: Fleet) -> str:
    backend = spec.engine.backend if spec.engine else "onnxruntime"
    assert backend is not None
    queue = fleet.find_queue(backend)
    if queue is None and not spec.wait_for_worker_seconds and not fleet.is_starting:
        raise WorkerUnavailable(capability=backend, live=sorted(fleet.queues) or "nothing")
    return queue or _QUEUES.get(backend, "trt")


def resolved_model(row: ModelRow) -> ResolvedModel:
    """Return what a job keeps of a model."""
    files = tuple(StoredFile.model_validate(file) for file in row.files)
    return ResolvedModel(id=row.id, name=row.name, digest=row.digest, files=files, inputs=tuple(row.facts["inputs"]))


def _dataset(row: DatasetRow | None) -> ResolvedDataset | None:
    if row is None:
        return None
    return ResolvedDataset(
        id=row.id, name=row.name, digest=row.digest, listing=row.listing, packs=tuple(row.packs), images=row.images,
        labelled=row.labels is not None,
    )  # fmt: skip
