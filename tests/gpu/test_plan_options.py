"""Plans of the real TensorRT whose options change where they load, what they compute in, or what they take."""

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.child.parent import ChildCall, run_child
from app.cuda.device import Device
from app.cuda.execution import Execution
from app.cuda.runtime import open_tensorrt
from app.engines.backend import BuildRequest, get_backend
from app.engines.targets import Target, find_mismatch
from app.engines.tensorrt import TensorRtRunner, find_missing_lean
from app.errors import EngineProblem, UnsupportedOption
from app.spec import ShapeProfile
from app.worker.stages.latency import STEP
from tests.gpu.digits import SHAPES, accuracy, build_digits
from tests.observers.nets import run_all, save_net


def missing_lean() -> str | None:
    return find_missing_lean(open_tensorrt(lambda _: None).version)


def test_without_its_lean_runtime_a_version_compatible_plan_is_refused_by_its_name(tmp_path: Path) -> None:
    lean = missing_lean()
    if lean is None:
        pytest.skip("the lean runtime is installed here")
    with pytest.raises(EngineProblem, match=lean.replace(".", r"\.")):
        build_digits(tmp_path, "fp32", version_compatible=True)


def test_a_version_compatible_plan_of_all_options_runs(tmp_path: Path) -> None:
    if missing_lean() is not None:
        pytest.skip("the lean runtime, which such a plan carries, is not installed here")
    chosen = {"version_compatible": True, "hardware_compatible": True, "float_type": "fp16"}
    request, result, _ = build_digits(tmp_path, "int8", **chosen)
    assert result.metadata["version_compatible"]
    assert find_mismatch(result.metadata, Target(tensorrt_version=".".join(result.metadata["version"].split(".")[:2]))) is None
    assert 0.96 <= accuracy(request.plan) <= 0.98


def test_a_hardware_compatible_plan_is_built_for_another_gpu_and_says_so(tmp_path: Path, gpu: Device) -> None:
    if float(gpu.compute_capability) < 8.0:
        pytest.skip("such plans are of Ampere and newer")
    other = "8.6" if gpu.compute_capability != "8.6" else "8.9"
    request, result, _ = build_digits(
        tmp_path, "int8", float_type="fp16", hardware_compatible=True, compute_capability=(other,)
    )
    engine = Execution(open_tensorrt(lambda _: None), request.plan.read_bytes())
    assert engine.engine.hardware_compatibility_level.name == "AMPERE_PLUS"
    engine.close()
    assert find_mismatch(result.metadata, Target(other)) is None
    assert find_mismatch(result.metadata, Target("7.5")) is not None
    assert 0.96 <= accuracy(request.plan) <= 0.98


def test_what_is_not_hardware_compatible_has_no_such_level_and_is_for_this_gpu(tmp_path: Path, gpu: Device) -> None:
    request, result, _ = build_digits(tmp_path, "fp32")
    engine = Execution(open_tensorrt(lambda _: None), request.plan.read_bytes())
    assert engine.engine.hardware_compatibility_level.name == "NONE"
    engine.close()
    other = "8.6" if gpu.compute_capability != "8.6" else "8.9"
    assert find_mismatch(result.metadata, Target(other)) is not None
    with pytest.raises(UnsupportedOption, match=other.replace(".", r"\.")):
        build_digits(tmp_path, "fp32", compute_capability=(other,))


def save_moving_net(folder: Path) -> Path:
    """Save a net whose batch, height and width may all be anything; two dimensions have one name, as exporters do."""
    weights = {"w": np.random.default_rng(5).normal(size=(16, 3, 3, 3)).astype(np.float32)}
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    return save_net(folder, nodes, weights, "y", ("N", 3, "s", "s"))


def test_a_profile_of_every_dimension_is_kept_to(tmp_path: Path, gpu: Device) -> None:
    path, plan = save_moving_net(tmp_path), tmp_path / "plan"
    shapes = {"x": ShapeProfile(min=(1, 3, 8, 8), opt=(4, 3, 16, 24), max=(8, 3, 32, 64))}
    get_backend("tensorrt").build(BuildRequest(path, plan, "fp32", shapes=shapes, optimization_level=0), lambda _: None)
    execution = Execution(open_tensorrt(lambda _: None), plan.read_bytes())
    span = execution.span("x")
    assert (span.least, span.usual, span.largest) == ((1, 3, 8, 8), (4, 3, 16, 24), (8, 3, 32, 64))
    for shape in (span.least, span.usual, span.largest, (3, 3, 10, 62)):
        given = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        execution.take_shapes({"x": shape})
        execution.upload("x", given)
        execution.enqueue()
        np.testing.assert_allclose(execution.download()["y"], run_all(path, given, ["y"])["y"], rtol=1e-4, atol=1e-4)
    with pytest.raises(EngineProblem):
        execution.take_shapes({"x": (9, 3, 16, 16)})
    execution.close()


def test_a_profile_without_batch_one_fills_batches_up(tmp_path: Path) -> None:
    shapes = {"input": ShapeProfile(min=(8, 1, 28, 28), opt=(16, 1, 28, 28), max=(17, 1, 28, 28))}
    request, _, _ = build_digits(tmp_path, "int8", float_type="fp16", shapes=shapes)
    assert 0.965 <= accuracy(request.plan) <= 0.977  # 1500 = 88 x 17 + 4


def test_a_build_that_knows_the_timings_measures_nothing_anew(tmp_path: Path) -> None:
    timings, sizes = tmp_path / "timings", []
    for _ in range(2):
        build_digits(tmp_path, "fp16", optimization_level=1, timing_cache=timings)
        sizes.append(timings.stat().st_size)
    assert sizes[0] == sizes[1] > 0


def test_the_least_workspace_that_may_be_asked_for_suffices_the_digits(tmp_path: Path) -> None:
    request, _, _ = build_digits(tmp_path, "int8", float_type="fp16", workspace_bytes=1 << 20)
    assert 0.965 <= accuracy(request.plan) <= 0.977


def test_half_a_plan_is_refused(tmp_path: Path) -> None:
    request, _, _ = build_digits(tmp_path, "fp32")
    request.plan.write_bytes(request.plan.read_bytes()[: request.plan.stat().st_size // 2])
    call = ChildCall(STEP, {"backend": "tensorrt", "plans": {"half": str(request.plan)}, "shape": None}, "build", 60)
    with pytest.raises(EngineProblem):  # in a child: a runtime that crashes must not end the tests
        asyncio.run(run_child(call))


def test_images_of_another_size_than_the_engine_s_are_refused(tmp_path: Path) -> None:
    request, _, _ = build_digits(tmp_path, "fp32", shapes=SHAPES)
    runner = TensorRtRunner(request.plan.read_bytes(), lambda _: None)
    try:
        with pytest.raises(EngineProblem):
            runner.run(np.zeros((2, 1, 28, 27), np.float32))
    finally:
        runner.close()
