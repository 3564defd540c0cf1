"""The options of `calibrate` and `build`, and the JobSpec that they make."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from app.errors.validation import words_from_errors
from app.spec import (
    Backend,
    FloatType,
    JobSpec,
    Method,
    Placement,
    Precision,
    PreprocessSpec,
    WeightRounding,
    preprocess_from_json,
)


@dataclass(frozen=True)
class CalibrationOptions:
    """What is calibrated, and how."""

    model: Annotated[str | None, typer.Argument(help="Name or id of a model, or an ONNX file to push first.")] = None
    dataset: Annotated[str | None, typer.Argument(help="Name or id of a dataset, or an archive or FOLDER/ to push.")] = None
    method: Annotated[Method | None, typer.Option(help="How ranges become scales; auto keeps the best measured.")] = None
    grid: Annotated[Literal["mergeable", "tensorrt"] | None, typer.Option(help="Bins of the histograms.")] = None
    batch_size: Annotated[int | None, typer.Option(help="Images at once; changes numbers on the tensorrt grid only.")] = None
    max_images: Annotated[int | None, typer.Option(help="Calibrate on so many, spread over the dataset.")] = None
    percentile: Annotated[float | None, typer.Option(help="Share of values kept by method percentile, in percent.")] = None
    observe: Annotated[Literal["needed", "all"] | None, typer.Option(help="Which tensors are measured.")] = None
    converge: Annotated[float | None, typer.Option(help="Stop when a doubling of images moves no amax by this share.")] = None
    shards: Annotated[int | None, typer.Option(help="Observe in so many processes; the result is the same.")] = None
    preprocess: Annotated[
        str | None, typer.Option(help="unit, imagenet, tf, caffe, or JSON such as '{\"size\": [224, 224]}'.")
    ] = None
    table: Annotated[str | None, typer.Option(help="Build from this stored table; nothing is calibrated then.")] = None
    spec: Annotated[Path | None, typer.Option(help="JobSpec as a JSON file; the other options override it.")] = None


@dataclass(frozen=True)
class EngineOptions:
    """What is built, and how good it must be."""

    backend: Annotated[Backend | None, typer.Option(help="By default what a live worker has.")] = None
    precision: Annotated[Precision | None, typer.Option(help="fp32 and fp16 need no DATASET.")] = None
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="GPU to build for, such as 8.6; repeat it for several (tensorrt-rtx).")
    ] = None
    float_type: Annotated[FloatType | None, typer.Option(help="What stays float is computed in this.")] = None
    placement: Annotated[Placement | None, typer.Option(help="Where Q/DQ pairs go.")] = None
    exclude: Annotated[
        list[str] | None, typer.Option(help="Node, tensor or pattern that stays float, or auto; may be repeated.")
    ] = None
    judge: Annotated[str | None, typer.Option(help="Dataset to compare FP32 and INT8 on: name, id, or a path to push.")] = None
    judge_images: Annotated[int | None, typer.Option(help="Compare on so many of them.")] = None
    min_agreement: Annotated[float | None, typer.Option(help="Gate: top-1 agreement with FP32, 0 to 1.")] = None
    max_accuracy_drop: Annotated[float | None, typer.Option(help="Gate: loss of accuracy on labelled images, 0 to 1.")] = None
    equalize: Annotated[bool | None, typer.Option("--equalize", help="Even out weights between convolutions first.")] = None
    center: Annotated[bool | None, typer.Option("--center", help="Move one-sided activations to around zero.")] = None
    asymmetric: Annotated[bool | None, typer.Option("--asymmetric", help="Zero points, for ONNX Runtime alone.")] = None
    bias_correction: Annotated[
        bool | None, typer.Option("--bias-correction", help="Take the error to expect out of the biases.")
    ] = None
    weight_rounding: Annotated[WeightRounding | None, typer.Option(help="gptq rounds weights with each other in mind.")] = None
    max_excluded: Annotated[float | None, typer.Option(help="Share of multiply-adds that --exclude auto may leave.")] = None
    sensitivity: Annotated[bool | None, typer.Option("--sensitivity", help="Report what each group of nodes loses.")] = None
    quantization: Annotated[
        Literal["explicit", "implicit"] | None, typer.Option(help="implicit: TensorRT up to 10 takes the table as its cache.")
    ] = None
    latency: Annotated[bool | None, typer.Option("--latency", help="Time the engine beside its float twins.")] = None


def document_from_options(calibration: CalibrationOptions, engine: EngineOptions | None) -> dict[str, Any]:
    """Return a JobSpec as JSON, unchecked; engine None stops the job after the table.

    `model`, `dataset` and `judge.dataset` stand as they were written: a path is still a path.
    Raises typer.BadParameter for a --spec or --preprocess that cannot be read.
    """
    document = _read_spec(calibration.spec) if calibration.spec else {}
    _put(document, {"model": calibration.model, "dataset": calibration.dataset, "table": calibration.table})
    if calibration.preprocess is not None:
        document["preprocess"] = preprocess_from_text(calibration.preprocess)
    chosen = ("method", "grid", "batch_size", "max_images", "percentile", "observe", "converge", "shards")
    _put_section(document, "calibration", {name: asdict(calibration)[name] for name in chosen})
    if engine is None:
        return document | {"engine": None}
    _put_engine(document, engine)
    return document


def spec_from_document(document: dict[str, Any]) -> JobSpec:
    """Check the document. Raises typer.BadParameter that names what is wrong."""
    if "model" not in document:
        raise typer.BadParameter("name a MODEL (and a DATASET), or give a --spec file that does")
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise typer.BadParameter(_told_all(error)) from error


def preprocess_spec_from_text(text: str | None) -> PreprocessSpec:
    """Return what --preprocess says, a preset's name or a JSON object; None leaves all open. Raises typer.BadParameter."""
    if text is None:
        return PreprocessSpec()
    try:
        return PreprocessSpec.model_validate(preprocess_from_json(preprocess_from_text(text)))
    except ValidationError as error:
        raise typer.BadParameter(_told_all(error), param_hint="--preprocess") from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--preprocess") from error


def _told_all(error: ValidationError) -> str:
    return words_from_errors(error.errors()[:4])


def _put_engine(document: dict[str, Any], options: EngineOptions) -> None:
    _put_section(
        document,
        "engine",
        {
            "backend": options.backend,
            "precision": options.precision,
            "quantization": options.quantization,
            "compute_capability": options.compute_capability or None,
        },
    )
    _put_section(
        document,
        "quantize",
        {
            "float_type": options.float_type,
            "placement": options.placement,
            "exclude": options.exclude or None,
            "equalize": options.equalize,
            "center": options.center,
            "asymmetric": options.asymmetric,
            "bias_correction": options.bias_correction,
            "weight_rounding": options.weight_rounding,
            "max_excluded": options.max_excluded,
        },
    )
    judge = {
        "dataset": options.judge,
        "images": options.judge_images,
        "latency": options.latency,
        "sensitivity": options.sensitivity,
    }
    _put_section(document, "judge", judge)
    gate = {"min_agreement": options.min_agreement, "max_accuracy_drop": options.max_accuracy_drop}
    if any(limit is not None for limit in gate.values()):
        _put_section(document["judge"] if document.get("judge") else document.setdefault("judge", {}), "gate", gate)
    if options.precision in ("fp32", "fp16", "bf16") and "dataset" not in document:
        document.setdefault("calibration", None)


def _put_section(document: dict[str, Any], section: str, values: dict[str, Any]) -> None:
    there = document.get(section) or {}
    if not isinstance(there, dict):
        raise typer.BadParameter(f"{section} in the --spec file is no JSON object")
    if any(value is not None for value in values.values()):
        document[section] = there
        _put(there, values)


def _put(document: dict[str, Any], values: dict[str, Any]) -> None:
    document.update({name: value for name, value in values.items() if value is not None})


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--spec") from error
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}", param_hint="--spec") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{path} is no JSON object", param_hint="--spec")
    return document


def preprocess_from_text(text: str) -> Any:
    """Return a preset's name, or the JSON object that text is. Raises typer.BadParameter."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"this is not JSON: {error}", param_hint="--preprocess") from error
