"""From what a user asked to what will be done: names become digests, every default is decided, before any long work."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from app.db import uploads, workers
from app.db.database import Session
from app.db.rows import DatasetRow, ModelRow, WorkerRow
from app.engines.rules import check_engine_spec
from app.errors import DatasetTooSmall, SpecProblem, UnsupportedOption, WorkerUnavailable
from app.inputs.preprocess import resolve_preprocess, resolve_shapes
from app.resolved import ResolvedDataset, ResolvedJob, ResolvedModel, StoredFile, Tools
from app.spec import CalibrationSpec, EngineSpec, JobSpec

#: `engine.backend` left out takes the first of these that a live worker has.
_DEFAULT_BACKENDS = ("tensorrt", "onnxruntime")
_TENSORRT_REASONS = {
    "shards": "TensorRT's first batch decides all bins, so parts cannot be merged; use calibration.grid mergeable",
    "converge": "TensorRT's grid takes images in sorted order, so the first ones stand for a few folders alone; "
    "use calibration.grid mergeable",
}
_QUEUES = {"onnxruntime": "cpu", "tensorrt-rtx": "rtx"}


@dataclass(frozen=True)
class Fleet:
    """The live workers, newest first."""

    workers: tuple[WorkerRow, ...]

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


def live_fleet(session: Session, dead_after_seconds: float) -> Fleet:
    """Return the workers whose heartbeat is young enough."""
    alive = [row for row, age in workers.list_workers(session) if age < dead_after_seconds]
    return Fleet(tuple(sorted(alive, key=lambda row: row.started_at, reverse=True)))


def installed_tools() -> Tools:
    """Return the versions of what is installed here."""
    runtime = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    return Tools(observer=runtime, decoder=f"pillow {importlib.metadata.version('pillow')}", judge=runtime, backend=None)


def resolve_job(session: Session, spec: JobSpec, fleet: Fleet) -> tuple[ResolvedJob, str]:
    """Return the resolved job and its queue.

    Raises NotFound, SpecProblem, UnsupportedOption, PreprocessRequired, InputLayoutMismatch, ShapeProfileRequired,
    ShapeProfileInvalid, DatasetTooSmall, ComputeCapability... and WorkerUnavailable, all before any work.
    """
    model = uploads.get_upload(session, ModelRow, spec.model)
    dataset = uploads.get_upload(session, DatasetRow, spec.dataset) if spec.dataset else None
    judged = uploads.get_upload(session, DatasetRow, spec.judge.dataset) if spec.judge.dataset else None
    spec = _decide(spec, model.facts["inputs"], fleet, needs_images=dataset is not None or judged is not None)
    _check(spec, dataset)
    queue = _queue(spec, fleet)
    job = ResolvedJob(
        spec=spec, model=resolved_model(model), dataset=_dataset(dataset), judge_dataset=_dataset(judged),
        tools=fleet.tools(queue, spec.engine.backend if spec.engine else None),
    )  # fmt: skip
    if spec.judge.gate and not job.is_judged:
        raise SpecProblem(reason="judge.gate needs an INT8 engine and images to judge it on")
    return job, queue


def _decide(spec: JobSpec, inputs: list[dict[str, Any]], fleet: Fleet, needs_images: bool) -> JobSpec:
    decided: dict[str, Any] = {}
    if needs_images:
        decided["preprocess"] = resolve_preprocess(spec.preprocess, inputs)
    if spec.engine is not None:
        backend = spec.engine.backend or _default_backend(fleet)
        shapes = resolve_shapes(spec.engine.shapes, inputs)
        if not spec.is_quantized:
            decided["calibration"] = None  # a float engine needs no table, so none is computed by the way
        decided["engine"] = EngineSpec.model_validate(spec.engine.model_dump() | {"backend": backend, "shapes": shapes})
    return spec.model_copy(update=decided)


def _default_backend(fleet: Fleet) -> str:
    return next((backend for backend in _DEFAULT_BACKENDS if fleet.find_queue(backend)), "onnxruntime")


def _check(spec: JobSpec, dataset: DatasetRow | None) -> None:
    if spec.engine is not None:
        check_engine_spec(spec.engine, spec.quantize)
    calibration = spec.calibration
    if calibration is None:
        return
    if calibration.is_native and (spec.engine is None or spec.engine.backend != "tensorrt"):
        raise UnsupportedOption(option=calibration.method, reason="it needs engine.backend tensorrt; use entropy or minmax")
    wanted = calibration.batch_size if calibration.is_native else 1
    if dataset is not None and dataset.images < wanted:
        raise DatasetTooSmall(images=dataset.images, needed=wanted, reason="a native calibrator takes whole batches")
    _check_whole_set(calibration)
    for option, is_asked in _not_offered(spec).items():
        if is_asked:
            raise UnsupportedOption(option=option, reason="this version computes without it; leave it at its default")


def _check_whole_set(calibration: CalibrationSpec) -> None:
    for option in ("shards", "converge"):
        if getattr(calibration, option) is None:
            continue
        if calibration.grid == "tensorrt":
            raise UnsupportedOption(option=f"calibration.{option} with grid tensorrt", reason=_TENSORRT_REASONS[option])
        if calibration.is_native:
            reason = "TensorRT's own calibrator takes all images itself; use entropy or minmax"
            raise UnsupportedOption(option=f"calibration.{option} with {calibration.method}", reason=reason)
    if calibration.shards is not None and calibration.converge is not None:
        reason = "where to stop is known after each doubling alone; leave one of the two out"
        raise UnsupportedOption(option="calibration.shards with converge", reason=reason)


def _not_offered(spec: JobSpec) -> dict[str, bool]:
    calibration, quantize = spec.calibration, spec.quantize
    assert calibration is not None
    return {
        "calibration.observer tensorrt": calibration.observer == "tensorrt",
        "quantize.bias_correction": quantize.bias_correction,
        "quantize.placement measured": quantize.placement == "measured",
        "judge.latency": spec.judge.latency,
    }


def _queue(spec: JobSpec, fleet: Fleet) -> str:
    backend = spec.engine.backend if spec.engine else "onnxruntime"
    assert backend is not None
    queue = fleet.find_queue(backend)
    if queue is None and not spec.wait_for_worker_seconds:
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
