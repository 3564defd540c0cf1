"""What a spec leaves open and TensorRT decides otherwise than other backends."""

from typing import Any

from app.spec import JobSpec


def decide_format(spec: JobSpec) -> JobSpec:
    """Return the spec with the format of Q/DQ pairs that its engine has, unless the spec names one."""
    is_open = spec.engine is not None and "format" not in spec.quantize.model_fields_set
    if not is_open or spec.engine is None or spec.engine.precision != "fp8":
        return spec
    return spec.model_copy(update={"quantize": spec.quantize.model_copy(update={"format": "fp8"})})


def decide_for_tensorrt(spec: JobSpec) -> JobSpec:
    """Return the spec of a TensorRT job with every default decided; another backend's as it is.

    What does not become INT8 computes in fp16, and INT8 flows on through sums and pooling (placement fused), unless the
    spec says otherwise: so explicit Q/DQ gets the kernels that implicit quantization chooses. An implicit engine needs
    the range of every activation, not of those alone that a Q/DQ placement would quantize.
    """
    if spec.engine is None or spec.engine.backend != "tensorrt" or not spec.is_quantized:
        return spec
    is_explicit = spec.engine.quantization == "explicit"
    wanted = {"float_type": "fp16"} | ({"placement": "fused"} if is_explicit else {})
    left_open = {name: value for name, value in wanted.items() if name not in spec.quantize.model_fields_set}
    decided: dict[str, Any] = {"quantize": spec.quantize.model_copy(update=left_open)}
    if spec.calibration is not None and spec.engine.quantization == "implicit":
        decided["calibration"] = spec.calibration.model_copy(update={"observe": "all"})
    return spec.model_copy(update=decided)
