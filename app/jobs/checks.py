"""What is wrong with a job is said before it starts: options that cannot be had together, or not at all."""

from typing import Any

from app.engines.rules import check_engine_spec
from app.errors import DatasetTooSmall, ShapeProfileInvalid, SpecProblem, UnsupportedOption
from app.inputs.preprocess import made_shape
from app.resolved import ResolvedJob
from app.spec import CalibrationSpec, EngineSpec, JobSpec, QuantizeSpec

_TENSORRT_REASONS = {
    "shards": "TensorRT's first batch decides all bins, so parts cannot be merged; use calibration.grid mergeable",
    "converge": "TensorRT's grid takes images in sorted order, so the first ones stand for a few folders alone; "
    "use calibration.grid mergeable",
}


def check_spec(spec: JobSpec, inputs: list[dict[str, Any]], images: int | None) -> None:
    """Check a spec whose preprocess, backend and shapes are decided, for a model with these inputs.

    `images`: how many the calibration dataset has. Raises UnsupportedOption, SpecProblem, DatasetTooSmall,
    ShapeProfileInvalid and what `check_engine_spec` raises.
    """
    if spec.engine is not None:
        check_engine_spec(spec.engine, spec.quantize)
        _check_images_fit(spec, inputs)
        _check_quantize_has_effect(spec)
        _check_format(spec, spec.engine)
    _check_latency(spec)
    _check_judged_float_type(spec)
    _check_measured(spec)
    _check_measured_on_images(spec)
    if spec.calibration is not None:
        _check_native(spec, spec.calibration, images)
        _check_whole_set(spec.calibration)


def check_gate_can_be_told(job: ResolvedJob) -> None:
    """Raise SpecProblem where the judge could not tell whether the gate is passed."""
    gate = job.spec.judge.gate
    if job.spec.judge.sensitivity and not job.is_judged:
        raise SpecProblem(reason="judge.sensitivity needs an INT8 engine and images to measure it on")
    if gate is None:
        return
    if not job.is_judged:
        raise SpecProblem(reason="judge.gate needs an INT8 engine and images to judge it on")
    judged = job.judge_dataset or job.dataset
    if gate.max_accuracy_drop is not None and judged is not None and not judged.labelled:
        reason = f"judge.gate.max_accuracy_drop needs labels, and {judged.name} has none (a folder per class makes them)"
        raise SpecProblem(reason=reason)


def _check_measured_on_images(spec: JobSpec) -> None:
    """Raise what makes options impossible that look at images for the Q/DQ model: tuning, exclude auto, sensitivity."""
    quantize, judge = spec.quantize, spec.judge
    if not (quantize.is_tuned or quantize.excludes_automatically or judge.sensitivity):
        return
    named = "quantize.bias_correction, weight_rounding, exclude auto or judge.sensitivity"
    if spec.table is not None and (spec.dataset is None or judge.dataset is None):
        reason = "beside a table it needs images of its own to look at: give dataset for these, and judge.dataset to judge on"
        raise UnsupportedOption(option=named, reason=reason)
    if spec.engine is not None and spec.engine.quantization == "implicit":
        raise UnsupportedOption(option=named, reason="it changes a Q/DQ model; implicit quantization has none")
    if quantize.placement == "measured" and (quantize.excludes_automatically or judge.sensitivity):
        reason = "groups are those of one placement; name it, for measured tries several"
        raise UnsupportedOption(option="quantize.exclude auto or judge.sensitivity", reason=reason)


def _check_latency(spec: JobSpec) -> None:
    if not spec.judge.latency:
        return
    if spec.engine is None or not spec.is_quantized:
        raise SpecProblem(reason="judge.latency compares an int8 engine with float ones; it needs engine.precision int8 or fp8")
    if spec.engine.backend == "tensorrt-rtx":
        reason = "tensorrt-rtx plans are built for GPUs that the worker need not have; time them where they run"
        raise UnsupportedOption(option="judge.latency", reason=reason)


def _check_judged_float_type(spec: JobSpec) -> None:
    if spec.judge.float_type is None:
        return
    if not spec.is_quantized:
        raise SpecProblem(reason="judge.float_type is of the Q/DQ model that is judged; it needs engine.precision int8")
    if spec.engine is not None and spec.engine.backend == "tensorrt":
        reason = "tensorrt plans are judged themselves; set quantize.float_type, or take backend onnxruntime"
        raise UnsupportedOption(option="judge.float_type", reason=reason)
    if spec.judge.float_type == "fp16" and spec.quantize.asymmetric:
        reason = "fp16 is for TensorRT, which takes no zero points; leave out judge.float_type, or quantize.asymmetric"
        raise UnsupportedOption(option="judge.float_type fp16 with quantize.asymmetric", reason=reason)


def _check_measured(spec: JobSpec) -> None:
    if spec.quantize.placement != "measured":
        return
    is_explicit = spec.engine is not None and spec.engine.quantization == "explicit" and spec.is_quantized
    if spec.engine is None or spec.engine.backend != "tensorrt" or not is_explicit:
        reason = "it takes timings on the GPU of an explicit int8 engine of tensorrt; choose conservative, default or fused"
        raise UnsupportedOption(option="quantize.placement measured", reason=reason)


def _check_native(spec: JobSpec, calibration: CalibrationSpec, images: int | None) -> None:
    if not calibration.is_native:
        return
    if spec.engine is None or spec.engine.backend != "tensorrt":
        raise UnsupportedOption(option=calibration.method, reason="it needs engine.backend tensorrt; use entropy or minmax")
    if spec.quantize.equalize:
        reason = f"{calibration.method} calibrates the model as it is"
        raise UnsupportedOption(option="quantize.equalize with a native method", reason=reason)
    if images is not None and images < calibration.batch_size:
        reason = "a native calibrator takes whole batches"
        raise DatasetTooSmall(images=images, needed=calibration.batch_size, reason=reason)


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


def _check_quantize_has_effect(spec: JobSpec) -> None:
    # float_type may stand beside a float precision: it says the same or nothing.
    changed = spec.quantize.model_copy(update={"float_type": "fp32"}) != QuantizeSpec()
    if changed and not spec.is_quantized:
        assert spec.engine is not None
        raise SpecProblem(reason=f"quantize has nothing to act on with engine.precision {spec.engine.precision}")


def _check_format(spec: JobSpec, engine: EngineSpec) -> None:
    if spec.is_quantized and spec.quantize.format != engine.precision:
        reason = f"engine.precision is {engine.precision}; leave quantize.format out, for it follows from that"
        raise SpecProblem(reason=f"quantize.format is {spec.quantize.format}, and {reason}")
    if spec.quantize.format == "fp8" and (spec.quantize.needs_int8 or spec.judge.sensitivity):
        option = "bias_correction, weight_rounding, asymmetric, exclude auto or judge.sensitivity with fp8"
        raise UnsupportedOption(option=option, reason="they are made for INT8's even steps; leave them out, or take int8")


def _check_images_fit(spec: JobSpec, inputs: list[dict[str, Any]]) -> None:
    """Raise ShapeProfileInvalid where the images are of a size that the engine's profile leaves out."""
    assert spec.engine is not None
    profile = (spec.engine.shapes or {}).get(inputs[0]["name"]) if inputs else None
    if profile is None or spec.preprocess.size is None or len(profile.min) != 4:
        return
    for place, made in enumerate(made_shape(spec.preprocess)):
        if isinstance(made, int) and not profile.min[place] <= made <= profile.max[place]:
            low, high = profile.min[place], profile.max[place]
            raise ShapeProfileInvalid(reason=f"images are made {made} in dimension {place}, the profile has {low} to {high}")
