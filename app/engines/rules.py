"""What each backend can build, known without importing any runtime: the API refuses the rest before a job starts."""

from app.engines.tensorrt_rules import LEAST_FP8, check_tensorrt_spec, refuse_tensorrt_options, refuse_zero_points
from app.errors import ComputeCapabilityRequired, ComputeCapabilityUnsupported, UnsupportedOption
from app.spec import EngineSpec, QuantizeSpec

#: GPUs that TensorRT-RTX 1.7 builds for ahead of time.
RTX_COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
RTX_PRECISIONS = ("fp32", "fp16", "int8", "fp8")
ONNXRUNTIME_PRECISIONS = ("fp32", "int8")
_TURING = "7.5"


def check_engine_spec(engine: EngineSpec, quantize: QuantizeSpec) -> None:
    """Raise the problem that makes this engine impossible on its backend; backend None is not judged.

    Raises UnsupportedOption, ComputeCapabilityRequired, ComputeCapabilityUnsupported.
    """
    if engine.backend == "tensorrt":
        check_tensorrt_spec(engine, quantize)
    elif engine.backend is not None:
        refuse_tensorrt_options(engine)
    if engine.backend == "onnxruntime":
        _check_onnxruntime(engine, quantize)
    elif engine.backend == "tensorrt-rtx":
        _check_rtx(engine, quantize)


def _check_onnxruntime(engine: EngineSpec, quantize: QuantizeSpec) -> None:
    _check_explicit(engine)
    if engine.precision not in ONNXRUNTIME_PRECISIONS:
        reason = f"onnxruntime engines run on a CPU and are {' or '.join(ONNXRUNTIME_PRECISIONS)}"
        raise UnsupportedOption(option=f"engine.precision {engine.precision}", reason=reason)
    if engine.precision == "int8" and quantize.float_type == "fp16":
        # Measured with ONNX Runtime 1.32: its optimizer rounds the steps of the bias to fp16, where they underflow.
        reason = "onnxruntime computes fp16 Q/DQ models wrongly; use fp32 there"
        raise UnsupportedOption(option="quantize.float_type fp16", reason=reason)
    if engine.optimization_level != EngineSpec().optimization_level or engine.workspace_bytes is not None:
        reason = "it is an option of the TensorRT backends; leave it out"
        raise UnsupportedOption(option="engine.optimization_level or workspace_bytes", reason=reason)
    if engine.compute_capability:
        reason = "onnxruntime engines run on any CPU; leave it out or choose backend tensorrt-rtx"
        raise UnsupportedOption(option="engine.compute_capability", reason=reason)


def _check_rtx(engine: EngineSpec, quantize: QuantizeSpec) -> None:
    _check_explicit(engine)
    refuse_zero_points(engine, quantize)
    if engine.precision not in RTX_PRECISIONS:
        reason = f"tensorrt-rtx engines are {', '.join(RTX_PRECISIONS)}"
        raise UnsupportedOption(option=f"engine.precision {engine.precision}", reason=reason)
    if not engine.compute_capability:
        raise ComputeCapabilityRequired(supported=list(RTX_COMPUTE_CAPABILITIES))
    for value in engine.compute_capability:
        if value not in RTX_COMPUTE_CAPABILITIES:
            reason = f"tensorrt-rtx builds for {', '.join(RTX_COMPUTE_CAPABILITIES)}"
            raise ComputeCapabilityUnsupported(value=value, reason=reason)
        if engine.precision == "fp8" and float(value) < LEAST_FP8:
            reason = f"fp8 needs compute capability {LEAST_FP8} or more; take int8"
            raise ComputeCapabilityUnsupported(value=value, reason=reason)
    is_half = engine.precision == "fp16" or (engine.precision == "int8" and quantize.float_type == "fp16")
    if _TURING in engine.compute_capability and not is_half:
        reason = "Turing has no FP32 and no mixed INT8 kernels there; set quantize.float_type to fp16, or precision fp16"
        raise ComputeCapabilityUnsupported(value=_TURING, reason=reason)


def _check_explicit(engine: EngineSpec) -> None:
    if engine.quantization == "implicit":
        reason = f"only TensorRT up to 10 quantizes from a cache; {engine.backend} takes explicit Q/DQ"
        raise UnsupportedOption(option="engine.quantization implicit", reason=reason)
