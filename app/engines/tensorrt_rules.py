"""What TensorRT can build, known without importing it; what depends on its version is decided by the worker's facts."""

from collections.abc import Sequence

from app.errors import ComputeCapabilityUnsupported, UnsupportedOption
from app.spec import EngineSpec, QuantizeSpec

#: A hardware-compatible plan runs on GPUs from this compute capability (Ampere) on.
LEAST_COMPATIBLE = 8.0
#: Tensor cores of GPUs from this compute capability (Ada) on multiply fp8.
LEAST_FP8 = 8.9
TENSORRT_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
_OWN_OPTIONS = ("tensorrt_version", "tf32", "version_compatible", "hardware_compatible")


def check_tensorrt_spec(engine: EngineSpec, quantize: QuantizeSpec) -> None:
    """Raise the problem that makes this engine impossible with every TensorRT."""
    if engine.precision not in TENSORRT_PRECISIONS:
        reason = f"tensorrt engines are {', '.join(TENSORRT_PRECISIONS)}"
        raise UnsupportedOption(option=f"engine.precision {engine.precision}", reason=reason)
    refuse_zero_points(engine, quantize)
    if engine.compute_capability is not None and len(engine.compute_capability) > 1:
        reason = "tensorrt builds for the GPU of one worker; send a job for each, or hardware_compatible for Ampere and newer"
        raise ComputeCapabilityUnsupported(value=", ".join(engine.compute_capability), reason=reason)
    if engine.hardware_compatible and not builds_for(
        engine.compute_capability or (), f"{LEAST_COMPATIBLE}", is_compatible=True
    ):
        reason = f"hardware_compatible plans run on Ampere and newer, from compute capability {LEAST_COMPATIBLE} on"
        raise ComputeCapabilityUnsupported(value=", ".join(engine.compute_capability or ()), reason=reason)
    if engine.hardware_compatible and engine.precision == "fp8":
        reason = f"fp8 needs compute capability {LEAST_FP8} or more, and such a plan runs from {LEAST_COMPATIBLE} on; take int8"
        raise UnsupportedOption(option="engine.precision fp8 with hardware_compatible", reason=reason)
    if engine.quantization == "implicit":
        _check_implicit(engine, quantize)


def builds_for(wanted: Sequence[str], capability: str, is_compatible: bool) -> bool:
    """Return whether a GPU of that compute capability makes plans for the wanted ones; none wanted is its own.

    `is_compatible`: the plan is hardware-compatible, so that maker and target only have to be new enough.
    """
    if is_compatible:
        return all(float(value) >= LEAST_COMPATIBLE for value in (*wanted, capability))
    return not wanted or capability in wanted


def refuse_zero_points(engine: EngineSpec, quantize: QuantizeSpec) -> None:
    """Raise UnsupportedOption where activations would get what TensorRT does not take."""
    if quantize.asymmetric:
        reason = f"{engine.backend} takes zero point 0 alone; center does the like without, where it can"
        raise UnsupportedOption(option="quantize.asymmetric", reason=reason)


def refuse_tensorrt_options(engine: EngineSpec) -> None:
    """Raise UnsupportedOption where another backend was asked for what TensorRT alone can."""
    for name in _OWN_OPTIONS:
        if getattr(engine, name):
            raise UnsupportedOption(option=f"engine.{name}", reason=f"it is an option of tensorrt, not of {engine.backend}")


def _check_implicit(engine: EngineSpec, quantize: QuantizeSpec) -> None:
    if engine.precision != "int8":
        reason = f"a calibration cache quantizes to int8, not to engine.precision {engine.precision}"
        raise UnsupportedOption(option="engine.quantization implicit", reason=reason)
    for name in ("placement", "equalize", "bias_correction"):
        if getattr(quantize, name) != getattr(QuantizeSpec(), name):
            reason = "an implicit engine is built from the model as it is; use explicit"
            raise UnsupportedOption(option=f"quantize.{name} with engine.quantization implicit", reason=reason)
