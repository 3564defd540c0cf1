"""What a user may ask for: the JobSpec of the HTTP interface, as frozen pydantic models.

The same types serve the API, the command line, the client and the keys. A field may be added later with a default;
its default then leaves every old key as it was, for keys leave out what stands at its default (`app.keys`).
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
ID_PATTERN = re.compile(r"[a-z]+_[0-9a-z]{20,}")

Method = Literal["auto", "entropy", "minmax", "percentile", "mse", "native-entropy", "native-minmax"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Format = Literal["int8", "fp8"]
Backend = Literal["onnxruntime", "tensorrt-rtx", "tensorrt"]
Placement = Literal["conservative", "default", "fused", "measured"]
FloatType = Literal["fp32", "fp16"]
WeightRounding = Literal["nearest", "gptq"]

#: An entry of `quantize.exclude`: what else stays float is found by measuring.
AUTO = "auto"

#: The methods that `auto` compares, in the order in which ties are settled.
DERIVED_METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse", "entropy")

#: value = (pixel * scale - mean) / std, pixel 0..255. The recipes that image models are usually trained with.
PRESETS: dict[str, dict[str, Any]] = {
    "unit": {},
    "imagenet": {
        "resize": "crop",
        "resample": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "tf": {"scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    "caffe": {"color": "BGR", "scale": 1.0, "mean": (103.939, 116.779, 123.68), "std": (1.0,)},
}


class Frozen(BaseModel):
    """A value that never changes and knows every field it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_name(name: str) -> str:
    """Return name if a user may give it to a model or dataset; raise ValueError with the rule otherwise."""
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError("a name is 1 to 100 of a-z 0-9 . _ - and starts with a letter or digit")
    if ID_PATTERN.fullmatch(name):
        raise ValueError("a name must not look like an id (letters, _, then 20 or more letters and digits)")
    return name


Name = Annotated[str, AfterValidator(check_name)]
Reference = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


def _not_zero(scale: float) -> float:
    if scale == 0:
        raise ValueError("a scale of 0 makes every image the same")
    return scale


class PreprocessSpec(Frozen):
    """How a picture becomes `float32[N, C, H, W]` (or NHWC).

    value = (pixel * scale - mean) / std per channel, in float32, in this order, pixel 0..255.

    `size`, `color` and `layout` that are None are read from the model's only 4-D input.
    """

    size: tuple[Annotated[int, Field(ge=1, le=16384)], Annotated[int, Field(ge=1, le=16384)]] | None = None
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bicubic"
    color: Literal["L", "RGB", "BGR"] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    scale: Annotated[float, AfterValidator(_not_zero)] = 1 / 255
    mean: tuple[float, ...] = Field(default=(0.0,), min_length=1, max_length=3)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1, max_length=3)
    decoder: Literal["exact", "draft"] = "exact"
    exif: bool = False

    @property
    def channels(self) -> int:
        """Channels of a resolved spec: 1 for L, else 3."""
        return 1 if self.color == "L" else 3


def preprocess_from_json(value: object) -> object:
    """Turn a preset name, or `{"preset": NAME, ...overrides}`, into the fields of a PreprocessSpec."""
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    overrides = {name: field for name, field in value.items() if name != "preset"}
    preset = value["preset"]
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"unknown preset; there are {', '.join(PRESETS)}")
    return PRESETS[preset] | overrides


class CalibrationSpec(Frozen):
    """How activation ranges are measured and reduced to one amax a tensor.

    `shards` processes observe a contiguous part of the images each, and their histograms are merged: the result is the
    same. With `converge` images are taken so that however few suffice are spread evenly over the sorted paths: the first
    2^m are those that `max_images` 2^m takes. After 16, 32, 64, ... images amax is computed by the job's method (`auto`:
    by all); when a doubling moved no tensor's by more than this fraction, the rest is left for the judge. Both need the
    mergeable grid. `observer` runs the model: TensorRT on a GPU, onnxruntime on a CPU, or (`auto`) TensorRT where it
    builds the engine; on a GPU the shards are as many as there are GPUs, unless they are given.
    """

    method: Method = "auto"
    grid: Literal["mergeable", "tensorrt"] = "mergeable"
    batch_size: int = Field(default=8, ge=1, le=1024)
    max_images: int | None = Field(default=None, ge=1, le=1_000_000_000)
    percentile: float = Field(default=99.99, gt=0, le=100)
    observe: Literal["needed", "all"] = "needed"
    observer: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    shards: int | None = Field(default=None, ge=1, le=64)
    converge: float | None = Field(default=None, gt=0, lt=1)
    on_bad_image: Literal["fail", "skip"] = "fail"
    max_bad_fraction: float = Field(default=0.0, ge=0, lt=1)

    @property
    def is_native(self) -> bool:
        """Whether TensorRT's own calibrator does the work."""
        return self.method.startswith("native-")


def _as_set(names: tuple[str, ...]) -> tuple[str, ...]:
    # Order and repetition mean nothing, so they must not make another key.
    return tuple(sorted(set(names)))


def exclude_from_json(value: object) -> object:
    """Turn the word `auto` into a list of one."""
    return (AUTO,) if value == AUTO else value


class QuantizeSpec(Frozen):
    """Where Q/DQ pairs go, and what the rest of the model computes in.

    `placement`: `conservative` (inputs of nodes with weights that are wide enough), `default` (also first layers, products
    of activations, shortcuts), `fused` (also pooling, Concat, Add and what moves values between them).
    `equalize` gives channels between two convolutions like ranges in both weights, exactly in float; the activations
    are then observed on that model.
    `center` moves what a Relu or Clip at zero gives to a range around zero where all readers are unpadded, exactly in
    float: its INT8 steps are half as large. It needs `bias_correction`, for zeros that cost nothing become values.
    `asymmetric` gives activations zero points, so that all steps are spent on values that occur; for ONNX Runtime alone.
    `bias_correction` takes the error to expect of every INT8 output channel out of its bias; `weight_rounding` gptq
    rounds each weight to make up for the rounding of those before it. Both look at calibration images.
    `format` is what Q/DQ pairs have between them: int8, or fp8 (E4M3) for GPUs from compute capability 8.9 on, for Gemm and
    MatMul alone; an engine of precision fp8 has it by itself. It takes none of the options that are made for INT8's steps.
    `exclude` lists what stays float; `auto`, alone or in the list, adds the fewest multiply-adds that make the gate hold
    (`judge.gate`; without one an agreement of 0.98, or an SQNR of 30 dB for a model without classes), at most the share
    `max_excluded` (default: any for a gate, 0.05 without one). A node that is really called auto is `[a]uto`.
    """

    placement: Placement = "default"
    exclude: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...],
        Field(max_length=10_000),
        BeforeValidator(exclude_from_json),
        AfterValidator(_as_set),
    ] = ()
    max_excluded: float | None = Field(default=None, gt=0, le=1)
    float_type: FloatType = "fp32"
    equalize: bool = False
    center: bool = False
    asymmetric: bool = False
    bias_correction: bool = False
    weight_rounding: WeightRounding = "nearest"
    format: Format = "int8"

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.format == "fp8" and self.needs_int8:
            raise ValueError(
                "bias_correction, weight_rounding, asymmetric and exclude: auto are for format int8; leave them out"
            )
        if self.center and not self.bias_correction:
            raise ValueError("center needs bias_correction: true; without it rounded weights cost more than is gained")
        if self.asymmetric and (self.center or self.float_type == "fp16"):
            raise ValueError("asymmetric spends all steps by itself, and fp16 is for TensorRT, which takes no zero points")
        if self.max_excluded is not None and not self.excludes_automatically:
            raise ValueError("max_excluded limits what exclude: auto may leave in float; add auto or leave it out")
        return self

    @property
    def is_tuned(self) -> bool:
        """Whether weights or biases are fitted to images."""
        return self.bias_correction or self.weight_rounding != "nearest"

    @property
    def needs_int8(self) -> bool:
        """Whether an option is made for the even steps of INT8."""
        return self.is_tuned or self.asymmetric or self.excludes_automatically

    @property
    def excludes_automatically(self) -> bool:
        """Whether what stays float is yet to be measured."""
        return AUTO in self.exclude

    def excluding(self, names: Iterable[str]) -> Self:
        """Return the spec with these names and no `auto`: what it comes to once it is measured."""
        kept = {name for name in self.exclude if name != AUTO}
        return self.model_copy(update={"exclude": tuple(sorted(kept | set(names))), "max_excluded": None})


Dimensions = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 31)], ...], Field(min_length=1, max_length=8)]


class ShapeProfile(Frozen):
    """An optimization profile of one input: the smallest, the usual and the largest shape."""

    min: Dimensions
    opt: Dimensions
    max: Dimensions

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError("min, opt and max must have the same number of dimensions")
        if not all(low <= usual <= high for low, usual, high in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError("min <= opt <= max must hold in every dimension")
        return self


def capabilities_from_json(value: object) -> object:
    """Turn one compute capability into a list of one."""
    return (value,) if isinstance(value, str) else value


def _sorted_capabilities(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(sorted(set(values), key=float))


ComputeCapability = Annotated[str, Field(pattern=r"^[1-9][0-9]?\.[0-9]$")]
TensorRtVersion = Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){0,2}$")]
DriverVersion = Annotated[str, Field(pattern=r"^[0-9]{3}(\.[0-9]{1,3}){0,2}$")]


class EngineSpec(Frozen):
    """What is built, for what, by which backend. `backend: null` takes what a live worker has.

    Of TensorRT alone: `tensorrt_version` ("10.6", or "11") asks for a worker with it. `tf32` lets FP32 layers round their
    inputs to 10 bits; a `version_compatible` plan loads in later versions, a `hardware_compatible` one on other GPUs from
    Ampere on; both cost speed.
    """

    backend: Backend | None = None
    precision: Precision = "int8"
    quantization: Literal["explicit", "implicit"] = "explicit"
    shapes: dict[Annotated[str, Field(max_length=1024)], ShapeProfile] | None = Field(default=None, max_length=64)
    compute_capability: Annotated[
        Annotated[tuple[ComputeCapability, ...], Field(min_length=1, max_length=16)] | None,
        BeforeValidator(capabilities_from_json),
        AfterValidator(_sorted_capabilities),
    ] = None
    optimization_level: int = Field(default=3, ge=0, le=5)
    workspace_bytes: int | None = Field(default=None, ge=1 << 20, le=1 << 50)
    tensorrt_version: TensorRtVersion | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether it needs a calibration table."""
        return self.precision in ("int8", "fp8")


class GateSpec(Frozen):
    """What an engine must reach: its job fails with `gate_missed` otherwise."""

    min_agreement: float | None = Field(default=None, ge=0, le=1)
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.min_agreement is None and self.max_accuracy_drop is None:
            raise ValueError("give min_agreement, max_accuracy_drop or both")
        return self


class JudgeSpec(Frozen):
    """On which images FP32 and INT8 are compared, and what is good enough.

    `sensitivity` adds to the report what each group of INT8 nodes loses; `quantize.exclude` auto measures that anyway.
    `float_type` judges the Q/DQ model with this `quantize.float_type` in the place of the engine: the file that another
    runtime gets. ONNX Runtime engines are fp32 alone, yet it computes fp16 files rightly as it is set up to judge.
    """

    dataset: Reference | None = None
    images: int = Field(default=200, ge=1, le=100_000)
    gate: GateSpec | None = None
    latency: bool = False
    sensitivity: bool = False
    float_type: FloatType | None = None


class JobSpec(Frozen):
    """One job: observe, derive, quantize, build, judge. The shortest is `{"model": "m", "dataset": "d"}`.

    `table` names a stored table of the model, an imported one for instance: then nothing is calibrated, and a dataset
    is only judged on.
    """

    model: Reference
    dataset: Reference | None = None
    preprocess: Annotated[PreprocessSpec, BeforeValidator(preprocess_from_json)] = PreprocessSpec()
    calibration: CalibrationSpec | None = CalibrationSpec()
    quantize: QuantizeSpec = QuantizeSpec()
    engine: EngineSpec | None = EngineSpec()
    judge: JudgeSpec = JudgeSpec()
    priority: int = Field(default=100, ge=1, le=1_000_000)
    wait_for_worker_seconds: int = Field(default=0, ge=0, le=86_400)
    allow_imported: bool = False
    table: Reference | None = None

    @model_validator(mode="after")
    def _dataset_where_needed(self) -> Self:
        if self.table is not None:
            return self._table_is_used()
        if self.calibration is not None and self.dataset is None and (self.engine is None or self.is_quantized):
            raise ValueError("dataset is needed to calibrate; for fp32 or fp16 send calibration: null and engine.precision")
        if self.calibration is None and self.engine is None:
            raise ValueError("calibration: null and engine: null together leave nothing to do")
        if self.calibration is None and self.is_quantized:
            raise ValueError("calibration: null needs engine.precision fp32, fp16 or bf16; int8 and fp8 must be calibrated")
        return self

    def _table_is_used(self) -> Self:
        if not self.is_quantized or self.calibration is None:
            raise ValueError("table is for an engine of precision int8; leave calibration and engine out, or table")
        return self

    @property
    def is_quantized(self) -> bool:
        """Whether the engine asked for needs a calibration table."""
        return self.engine is not None and self.engine.is_quantized
