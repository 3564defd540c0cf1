"""From what a user asked to what will be done: names become digests, every default is decided, before any long work."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.db import results, uploads, workers
from app.db.database import Session
from app.db.rows import DatasetRow, ModelRow, TableRow, WorkerRow
from app.engines.queues import ANY_TENSORRT_QUEUE, FIXED_QUEUES, queue_from_facts
from app.engines.tensorrt_rules import builds_for
from app.errors import SpecProblem, WorkerUnavailable
from app.inputs.preprocess import resolve_preprocess, resolve_shapes
from app.jobs.checks import check_gate_can_be_told, check_spec
from app.jobs.tensorrt_spec import decide_for_tensorrt, decide_format
from app.keys import check_equalizer
from app.resolved import ResolvedDataset, ResolvedJob, ResolvedModel, StoredFile, Tools
from app.settings import Settings
from app.spec import EngineSpec, JobSpec
from app.worker.tools import tools_for_job

#: `engine.backend` left out takes the first of these that a live worker has.
_DEFAULT_BACKENDS = ("tensorrt", "onnxruntime")
_TENSORRT = EngineSpec(backend="tensorrt")


@dataclass(frozen=True)
class Fleet:
    """The live workers, newest first; `is_starting`: the server's own worker is on its way."""

    workers: tuple[WorkerRow, ...]
    is_starting: bool = False

    @property
    def queues(self) -> set[str]:
        return {queue for worker in self.workers for queue in worker.queues}

    def find_queue(self, engine: EngineSpec, beside: str | None = None) -> str | None:
        """Return the queue of the newest live worker that can build this engine and has the backend `beside`, too."""
        assert engine.backend is not None
        for worker in self.workers:
            backends = worker.facts["backends"]
            facts = backends.get(engine.backend)
            queue = queue_from_facts(engine.backend, facts) if facts else None
            if facts and queue in worker.queues and can_build(engine, facts) and (beside is None or beside in backends):
                return queue
        return None

    def tools(self, queue: str, spec: JobSpec) -> Tools:
        """Return the job's tools on the newest live worker of a queue; of this installation where there is none."""
        for worker in self.workers:
            if queue in worker.queues:
                return tools_for_job(Tools.model_validate(worker.facts["tools"]), worker.facts["backends"], spec)
        return tools_for_job(installed_tools(), {}, spec)


def can_build(engine: EngineSpec, facts: Mapping[str, Any]) -> bool:
    """Return whether a backend, as a worker's probe described it, builds this engine for the GPUs that it is for."""
    if engine.backend != "tensorrt":
        return True  # what it cannot do at all was refused by `check_engine_spec`
    is_target = builds_for(engine.compute_capability or (), facts["compute_capabilities"][0], engine.hardware_compatible)
    is_known = engine.quantization in facts["quantizations"] and engine.precision in facts["precisions"]
    is_version = engine.tensorrt_version is None or f"{facts['version']}.".startswith(f"{engine.tensorrt_version}.")
    return is_known and is_version and is_target


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
    spec = decide_for_tensorrt(decide_format(_decide(spec, rows, fleet)))
    check_spec(spec, rows.model.facts["inputs"], rows.dataset.images if rows.dataset else None)
    queue = find_job_queue(spec, fleet)
    if queue is None and not spec.wait_for_worker_seconds and not fleet.is_starting:
        raise WorkerUnavailable(capability=describe_need(spec), live=sorted(fleet.queues) or "nothing")
    queue = queue or _waiting_queue(spec)
    job = ResolvedJob(
        spec=spec, model=resolved_model(rows.model), dataset=_dataset(rows.dataset), judge_dataset=_dataset(rows.judge_dataset),
        tools=fleet.tools(queue, spec),
    )  # fmt: skip
    check_gate_can_be_told(job)
    return job, queue


def _check_table(session: Session, table: TableRow, model: ModelRow, spec: JobSpec) -> None:
    if uploads.get_upload(session, ModelRow, table.model_id).digest != model.digest:
        raise SpecProblem(reason=f"table {table.id} is of another model than {model.name}, or of another version of it")
    if is_equalized(table) != spec.quantize.equalize:
        raise SpecProblem(reason=f"quantize.equalize must be {is_equalized(table)} with table {table.id}: so it was observed")
    check_equalizer(find_equalizer(table))


def is_equalized(table: TableRow) -> bool:
    """Return whether a table was observed on the model with equalized weights, here or where it came from."""
    return find_equalizer(table) is not None


def find_equalizer(table: TableRow) -> str | None:
    """Return what equalized the model on which a table was observed, here or where it came from, with its version."""
    return (table.facts.get("observation") or {}).get("equalize") or table.facts.get("equalizer")


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
    return next((b for b in _DEFAULT_BACKENDS if fleet.find_queue(EngineSpec.model_validate({"backend": b}))), "onnxruntime")


def find_job_queue(spec: JobSpec, fleet: Fleet) -> str | None:
    """Return the queue of a live worker that can do the whole job; None where there is none."""
    return fleet.find_queue(_made_on(spec), spec.engine.backend if spec.engine else None)


def _made_on(spec: JobSpec) -> EngineSpec:
    """Return the engine whose worker does the job: its own, or the table's on a GPU where that was asked for."""
    engine, calibration = spec.engine or EngineSpec(backend="onnxruntime"), spec.calibration
    if calibration is not None and calibration.is_native:
        return engine.model_copy(update={"quantization": "implicit"})  # the same versions calibrate
    if calibration is not None and calibration.observer == "tensorrt" and engine.backend != "tensorrt":
        return _TENSORRT
    return engine


def _waiting_queue(spec: JobSpec) -> str:
    return FIXED_QUEUES.get(_made_on(spec).backend or "", ANY_TENSORRT_QUEUE)


def describe_need(spec: JobSpec) -> str:
    """Return what a worker must be able to do for this job, in words."""
    engine = _made_on(spec)
    capability = f" for compute capability {engine.compute_capability[0]}" if engine.compute_capability else ""
    version = f" {engine.tensorrt_version}" if engine.tensorrt_version else ""
    return f"{engine.backend}{version} {engine.precision} {engine.quantization}{capability}"


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
