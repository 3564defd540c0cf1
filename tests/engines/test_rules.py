"""What cannot be built is refused before any runtime is loaded."""

import subprocess
import sys

import pytest

from app.engines.rules import check_engine_spec
from app.errors import ComputeCapabilityRequired, ComputeCapabilityUnsupported, UnsupportedOption
from app.spec import EngineSpec, QuantizeSpec


def check(float_type: str = "fp32", **engine: object) -> None:
    check_engine_spec(EngineSpec.model_validate(engine), QuantizeSpec.model_validate({"float_type": float_type}))


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0", ["8.9", "12.0"]])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_can_be_built_passes(precision: str, capability: object) -> None:
    check(backend="tensorrt-rtx", precision=precision, compute_capability=capability)
    check(backend="onnxruntime")
    check()


def test_turing_needs_fp16() -> None:
    check("fp16", backend="tensorrt-rtx", compute_capability="7.5")
    check(backend="tensorrt-rtx", precision="fp16", compute_capability="7.5")
    for precision, float_type in (("int8", "fp32"), ("fp32", "fp16")):
        with pytest.raises(ComputeCapabilityUnsupported, match=r"7\.5"):
            check(float_type, backend="tensorrt-rtx", precision=precision, compute_capability=["8.6", "7.5"])


def test_capabilities_are_needed_and_known() -> None:
    with pytest.raises(ComputeCapabilityRequired, match=r"8\.6"):
        check(backend="tensorrt-rtx")
    with pytest.raises(ComputeCapabilityUnsupported, match=r"9\.0"):
        check(backend="tensorrt-rtx", compute_capability="9.0")


@pytest.mark.parametrize(
    "engine",
    [
        {"backend": "onnxruntime", "precision": "fp16"},
        {"backend": "onnxruntime", "precision": "fp8"},
        {"backend": "onnxruntime", "quantization": "implicit"},
        {"backend": "onnxruntime", "compute_capability": "8.6"},
        {"backend": "tensorrt-rtx", "precision": "bf16", "compute_capability": "8.6"},
        {"backend": "tensorrt-rtx", "quantization": "implicit", "compute_capability": "8.6"},
    ],
)
def test_options_that_a_backend_lacks_are_refused(engine: dict) -> None:
    with pytest.raises(UnsupportedOption):
        check(**engine)


@pytest.mark.parametrize(("backend", "capability"), [("tensorrt-rtx", "8.9"), ("tensorrt", "8.9")])
def test_zero_points_are_for_onnxruntime(backend: str, capability: str) -> None:
    quantize = QuantizeSpec(asymmetric=True)
    check_engine_spec(EngineSpec(backend="onnxruntime"), quantize)
    with pytest.raises(UnsupportedOption, match="asymmetric"):
        check_engine_spec(EngineSpec.model_validate({"backend": backend, "compute_capability": capability}), quantize)


def test_fp16_beside_int8_is_refused_on_onnxruntime() -> None:
    with pytest.raises(UnsupportedOption, match="float_type"):
        check("fp16", backend="onnxruntime")


def test_the_rules_load_no_runtime() -> None:
    code = "import sys, app.engines.rules; assert not {'onnxruntime', 'tensorrt_rtx', 'onnx', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
