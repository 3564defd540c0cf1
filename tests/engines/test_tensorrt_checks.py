"""What a TensorRT worker is asked to build is checked against its GPU before the build; the GPU need not be there."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from app.cuda.device import Device
from app.cuda.log import open_log
from app.cuda.runtime import TensorRt
from app.engines.backend import BuildRequest, find_installed_backends
from app.engines.rules import check_engine_spec
from app.engines.tensorrt import check_target, naming_lean_runtime
from app.errors import ComputeCapabilityUnsupported, EngineProblem, UnsupportedOption
from app.spec import EngineSpec, QuantizeSpec

pytestmark = pytest.mark.skipif(
    "tensorrt-rtx" not in {info.name for info in find_installed_backends()}, reason="tensorrt-rtx is not installed"
)


@pytest.fixture
def rtx() -> TensorRt:
    """TensorRT-RTX, whose module says what it can do as TensorRT's does, and which loads without a GPU."""
    module = import_module("tensorrt_rtx")
    return TensorRt(module, open_log(module, lambda _: None), "tensorrt-rtx")


def gpu(capability: str) -> Device:
    return Device(0, f"a GPU of {capability}", capability, 80 << 30, 100, "0000:01:00.0", "580.65.06", "13.0")


def wanted(folder: Path, *capabilities: str, is_compatible: bool) -> BuildRequest:
    return BuildRequest(
        folder / "model", folder / "plan", "fp16", compute_capability=capabilities, hardware_compatible=is_compatible
    )


def test_a_compatible_plan_may_be_for_another_gpu(rtx: TensorRt, tmp_path: Path) -> None:
    check_target(wanted(tmp_path, "8.6", is_compatible=True), rtx, gpu("9.0"))
    check_target(wanted(tmp_path, "9.0", is_compatible=False), rtx, gpu("9.0"))
    check_target(wanted(tmp_path, is_compatible=False), rtx, gpu("7.5"))


@pytest.mark.parametrize(
    ("is_compatible", "target", "here"), [(False, "8.6", "9.0"), (True, "8.6", "7.5"), (True, "7.5", "9.0")]
)
def test_a_plan_that_would_not_load_is_not_built(
    rtx: TensorRt, tmp_path: Path, is_compatible: bool, target: str, here: str
) -> None:
    with pytest.raises(UnsupportedOption, match=here):
        check_target(wanted(tmp_path, target, is_compatible=is_compatible), rtx, gpu(here))


def test_compatible_with_a_gpu_that_no_such_plan_runs_on_is_refused_at_once() -> None:
    engine = EngineSpec(backend="tensorrt", compute_capability=("7.5",), hardware_compatible=True)
    with pytest.raises(ComputeCapabilityUnsupported, match=r"7\.5.*Ampere"):
        check_engine_spec(engine, QuantizeSpec())


def test_fp8_is_not_for_all_gpus_that_a_compatible_plan_runs_on() -> None:
    with pytest.raises(UnsupportedOption, match=r"fp8.*8\.9"):
        check_engine_spec(EngineSpec(backend="tensorrt", precision="fp8", hardware_compatible=True), QuantizeSpec())


def test_a_version_compatible_plan_that_fails_for_want_of_the_lean_runtime_says_so(rtx: TensorRt, tmp_path: Path) -> None:
    request = BuildRequest(tmp_path / "model", tmp_path / "plan", "fp16", version_compatible=True)
    lean = f"libnvinfer_lean.so.{rtx.version.split('.')[0]}"
    with pytest.raises(EngineProblem, match=f"carries {lean}, .*: its own words"), naming_lean_runtime(request, rtx):
        raise rtx.problem("its own words " * 100)
    with pytest.raises(EngineProblem) as other, naming_lean_runtime(replace(request, version_compatible=False), rtx):
        raise rtx.problem("its own words")
    assert "lean" not in str(other.value)
