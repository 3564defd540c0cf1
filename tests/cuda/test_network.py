"""Parsing and building through the CUDA room, with TensorRT-RTX, whose API is TensorRT's and which needs no GPU."""

from importlib import import_module
from pathlib import Path

import onnx
import pytest

from app.cuda.build import BuildOptions, build_plan
from app.cuda.log import open_log
from app.cuda.network import mark_outputs, parse_network
from app.cuda.runtime import TensorRt, features_of
from app.engines.backend import find_installed_backends
from app.errors import EngineProblem
from app.spec import ShapeProfile
from tests.quant.samples import digits_model
from tests.running import MODEL

needs_rtx = pytest.mark.skipif(
    "tensorrt-rtx" not in {info.name for info in find_installed_backends()}, reason="tensorrt-rtx is not installed"
)
#: TensorRT-RTX deprecates its timing cache, and answers a warning that became an error with a SystemError.
pytestmark = [needs_rtx, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SHAPES = {"input": ShapeProfile(min=(1, 1, 28, 28), opt=(8, 1, 28, 28), max=(32, 1, 28, 28))}
RELU = "/2/Relu_output_0"


@pytest.fixture
def rtx() -> TensorRt:
    module = import_module("tensorrt_rtx")
    return TensorRt(module, open_log(module, lambda _: None), "tensorrt-rtx")


def test_tensors_have_the_names_of_the_model(rtx: TensorRt) -> None:
    network = parse_network(rtx, MODEL, is_typed=True)
    tensors = network.tensors()
    assert {"input", RELU, "output"} <= tensors.keys()
    assert [value.name for value in network.inputs] == ["input"]


def test_any_tensor_can_come_out(rtx: TensorRt) -> None:
    network = parse_network(rtx, MODEL, is_typed=True)
    mark_outputs(network, [RELU, "output", "input"])
    assert [value.name for value in network.outputs] == ["output", RELU]
    options = BuildOptions(optimization_level=0, shapes=SHAPES, compute_capabilities=("8.6",))
    assert len(build_plan(network, options).plan) > 1000
    with pytest.raises(EngineProblem, match="no tensor nowhere"):
        mark_outputs(network, ["nowhere"])


def test_a_timing_cache_comes_back_and_a_spoilt_one_is_named(rtx: TensorRt) -> None:
    network = parse_network(rtx, MODEL, is_typed=True)
    options = BuildOptions(optimization_level=0, shapes=SHAPES, compute_capabilities=("8.6",), timing_cache=b"spoilt")
    assert build_plan(network, options).timing_cache
    assert any("timing cache" in line.lower() for line in rtx.log.warnings + rtx.log.errors)


def test_a_dynamic_input_needs_a_profile(rtx: TensorRt) -> None:
    network = parse_network(rtx, MODEL, is_typed=True)
    with pytest.raises(EngineProblem, match=r"engine\.shapes"):
        build_plan(network, BuildOptions(compute_capabilities=("8.6",)))


def test_external_data_is_found_and_its_absence_is_told(rtx: TensorRt, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(digits_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert parse_network(rtx, path, is_typed=True).definition.num_layers > 0
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EngineProblem, match=r"weights\.bin|node"):
        parse_network(rtx, path, is_typed=True)


def test_what_a_version_lacks_is_told_by_its_features(rtx: TensorRt) -> None:
    features = features_of(rtx.module)
    assert (features.int8_calibrator, features.precision_flags, features.layer_precision) == (False, False, False)
    assert features.fp8
