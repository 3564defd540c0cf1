"""Keys: sha256 of canonical JSON (RFC 8785). What changes a result is in its key; what stands at its default is not."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import rfc8785
from pydantic import BaseModel

from app.errors import TableProblem
from app.provenance import early_stop, foreign_calibration
from app.resolved import ResolvedJob
from app.spec import CalibrationSpec, QuantizeSpec

#: Raised when a stage computes other numbers from the same input, or an observation holds other tensors.
OBSERVER_VERSION = 6
DERIVER_VERSION = 3
CHOOSER_VERSION = 3
QUANTIZER_VERSION = 5
#: Of models with zero points alone.
ZERO_POINTS_VERSION = 2
JUDGE_VERSION = 2
TUNER_VERSION = 3
EXCLUDER_VERSION = 4
#: Of the cache text that an implicit build is given.
EXPORTER_VERSION = 4
EQUALIZER = "cross-layer/2"

#: Bias correction and weight rounding look at so many of the calibration images.
TUNE_IMAGES = 64

#: Names, whose digests are in the key instead, and what decides when a job runs but not what it does.
_NOT_IN_JOB_KEY: Any = {
    "model": True,
    "dataset": True,
    "judge": {"dataset"},
    "priority": True,
    "wait_for_worker_seconds": True,
}


def key_from(**parts: Any) -> str:
    """Return the sha256 hex of the parts as canonical JSON; pydantic models without their defaults, None left out."""
    told = {name: _plain(part) for name, part in parts.items() if part is not None}
    return hashlib.sha256(rfc8785.dumps(told)).hexdigest()


def dataset_digest(files: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a dataset from its (relative path, sha256 hex of the bytes): order does not matter."""
    return hashlib.sha256(rfc8785.dumps([list(file) for file in sorted(files)])).hexdigest()


def observation_facts(job: ResolvedJob) -> dict[str, Any]:
    """Return all that an observation depends on, by name: its key is made of them, and so is the reason of a miss."""
    assert job.dataset is not None
    assert job.spec.calibration is not None
    calibration = job.spec.calibration
    return {
        "model": job.model.digest,
        "dataset": job.dataset.digest,
        "listing": job.dataset.listing,
        "preprocess": job.spec.preprocess.model_dump(mode="json", exclude_defaults=True),
        "grid": "native" if calibration.is_native else calibration.grid,
        # Bins of the mergeable grid are the same for every batch size; TensorRT's first batch decides all of its bins.
        "batch_size": calibration.batch_size if calibration.is_native or calibration.grid == "tensorrt" else None,
        "max_images": calibration.max_images,
        "converge": _converge(calibration),
        "observe": None if calibration.is_native else calibration.observe,
        "bad_images": _bad_images(job),
        # Between equalized convolutions the activations have other ranges.
        "equalize": EQUALIZER if job.spec.quantize.equalize else None,
        "observer": job.tools.backend if calibration.is_native else f"{job.tools.observer}/{OBSERVER_VERSION}",
        "decoder": job.tools.decoder,
    }


def _bad_images(job: ResolvedJob) -> str | None:
    """Say what happens to images that cannot be decoded; None for the default, to fail."""
    calibration = job.spec.calibration
    if calibration is None or calibration.on_bad_image == "fail":
        return None
    return f"skip up to {calibration.max_bad_fraction:g}"


def observation_key(job: ResolvedJob) -> str:
    """Return the key of the job's histograms."""
    return key_from(**{name: fact for name, fact in observation_facts(job).items() if name != "listing"})


def table_key(job: ResolvedJob) -> str:
    """Return the key of the job's calibration table."""
    assert job.spec.calibration is not None
    method = job.spec.calibration.method
    if method == "auto":
        return key_from(
            observation=observation_key(job),
            method=method,
            percentile=job.spec.calibration.percentile,
            # What is excluded automatically is found after the table.
            quantize=job.spec.quantize.excluding(()) if job.spec.quantize.excludes_automatically else job.spec.quantize,
            tuned=tuned_facts(job),
            versions=[DERIVER_VERSION, _quantizer(job.spec.quantize), CHOOSER_VERSION],
            judge=judge_selection(job),
        )
    return derived_table_key(job, method)


def derived_table_key(job: ResolvedJob, method: str) -> str:
    """Return the key of the table that one method makes of the job's histograms."""
    assert job.spec.calibration is not None
    percentile = job.spec.calibration.percentile if method == "percentile" else None
    return key_from(observation=observation_key(job), method=method, percentile=percentile, deriver=DERIVER_VERSION)


def tuned_facts(job: ResolvedJob, table_facts: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return on what weights and biases are fitted; None where they are not. `table_facts`: of one that is there already."""
    if not job.spec.quantize.is_tuned:
        return None
    # Whoever observed, the images are looked at by ONNX Runtime.
    runtime = None if job.tools.observer == job.tools.judge else {"runtime": job.tools.judge}
    stopped = early_stop(job, table_facts or {})
    facts = {"observation": observation_key(job), "images": TUNE_IMAGES, "tuner": TUNER_VERSION} | (runtime or {})
    return facts | ({"stopped": stopped} if stopped else {})


def quantized_key(model_digest: str, table_body: str, quantize: QuantizeSpec, tuned: dict[str, Any] | None = None) -> str:
    """Return the key of a Q/DQ model; `table_body` is the digest of the table's JSON, `tuned`: `tuned_facts`."""
    return key_from(model=model_digest, table=table_body, quantize=quantize, quantizer=_quantizer(quantize), tuned=tuned)


def exclusion_key(job: ResolvedJob, table_body: str, table_facts: Mapping[str, Any]) -> str:
    """Return the key of what `quantize.exclude: auto` comes to for a job and a table."""
    return key_from(
        model=job.model.digest,
        table=table_body,
        calibration=foreign_calibration(job, table_facts),
        quantize=job.spec.quantize,
        tuned=tuned_facts(job, table_facts),
        gate=job.spec.judge.gate,
        judge=judge_selection(job),
        # It may be chosen on what was calibrated on.
        observation=observation_key(job),
        versions=[_quantizer(job.spec.quantize), EXCLUDER_VERSION],
    )


def cache_facts(job: ResolvedJob, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an implicit build is given of a table, by its facts, beside the activations that its body holds.

    That is the cache text that TensorRT's own calibrator wrote, or what an imported cache listed or was measured inside nodes.
    """
    if not _is_implicit(job):
        return None
    return {name: facts[name] for name in ("native_cache", "kept") if facts.get(name)} or None


def _is_implicit(job: ResolvedJob) -> bool:
    return job.spec.engine is not None and job.spec.engine.quantization == "implicit"


def engine_key(job: ResolvedJob, table_body: str | None, table_facts: Mapping[str, Any] | None = None) -> str:
    """Return the key of the job's engine; body and facts are of the table that it is built from, if any."""
    facts = table_facts or {}
    return key_from(
        model=job.model.digest,
        table=table_body,
        quantize=job.spec.quantize if table_body else None,
        quantizer=_quantizer(job.spec.quantize),
        tuned=tuned_facts(job, facts) if table_body else None,
        cache=cache_facts(job, facts) if table_body else None,
        exporter=EXPORTER_VERSION if table_body and _is_implicit(job) else None,
        engine=job.spec.engine,
        float_type=job.spec.quantize.float_type,
        backend=job.tools.backend,
    )


def judge_selection(job: ResolvedJob) -> dict[str, Any]:
    """Return what decides on which images, and how, the job's engine is judged."""
    dataset = job.judge_dataset or job.dataset
    assert dataset is not None
    converge = _converge(job.spec.calibration) if job.spec.calibration and not job.judge_dataset else None
    return {
        **({"converge": converge} if converge else {}),
        "dataset": dataset.digest,
        "calibrated_on": job.dataset.digest if job.dataset and job.spec.table is None else None,
        "max_images": job.spec.calibration.max_images if job.spec.calibration and not job.judge_dataset else None,
        "images": job.spec.judge.images,
        "bad_images": _bad_images(job),
        "preprocess": job.spec.preprocess.model_dump(mode="json", exclude_defaults=True),
        "decoder": job.tools.decoder,
        "judge": f"{job.tools.judge}/{JUDGE_VERSION}",
    }


def judge_key(job: ResolvedJob, engine: str, table_facts: Mapping[str, Any]) -> str:
    """Return the key of the report on the engine with that key; of auto's exclusion it tells how that was found."""
    judge = job.spec.judge
    # With a dataset to judge on, nothing hangs on the table's images but what sensitivity is told to be measured on.
    is_told = job.judge_dataset is None or judge.sensitivity
    return key_from(
        engine=engine,
        selection=judge_selection(job),
        calibration=foreign_calibration(job, table_facts) if is_told else None,
        latency=judge.latency or None,
        float_type=judge.float_type,
        exclusion=job.exclusion,
        # It may be measured on what was calibrated on.
        sensitivity={"observation": observation_key(job), "excluder": EXCLUDER_VERSION} if judge.sensitivity else None,
    )


def job_key(job: ResolvedJob) -> str:
    """Return the key of single flight: identical live jobs are one job."""
    spec = job.spec.model_dump(mode="json", exclude=_NOT_IN_JOB_KEY)
    datasets = [dataset.digest if dataset else None for dataset in (job.dataset, job.judge_dataset)]
    return key_from(model=job.model.digest, datasets=datasets, spec=spec, tools=job.tools)


def _quantizer(quantize: QuantizeSpec) -> int | list[int | str]:
    versions: list[int | str] = [QUANTIZER_VERSION]
    versions += [ZERO_POINTS_VERSION] if quantize.asymmetric else []
    versions += [EQUALIZER] if quantize.equalize else []
    return versions if len(versions) > 1 else QUANTIZER_VERSION


def check_equalizer(equalizer: str | None) -> None:
    """Raise TableProblem for a table whose ranges are of a model that another equalizer than ours made."""
    if equalizer not in (None, EQUALIZER):
        reason = f"its ranges are of a model equalized by {equalizer!a}, here {EQUALIZER} does it; calibrate again"
        raise TableProblem(reason=reason)


def _converge(calibration: CalibrationSpec) -> dict[str, Any] | None:
    # How many images suffice depends on the thresholds that are watched.
    if calibration.converge is None:
        return None
    watched = {"fraction": calibration.converge, "method": calibration.method}
    return watched | ({"percentile": calibration.percentile} if calibration.method in ("auto", "percentile") else {})


def _plain(part: Any) -> Any:
    if isinstance(part, BaseModel):
        return part.model_dump(mode="json", exclude_defaults=True)
    return part
