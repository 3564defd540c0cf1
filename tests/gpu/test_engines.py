"""Engines of the real TensorRT on this GPU: every precision, both quantizations, options, and what goes wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from app.cuda.device import Device
from app.cuda.execution import Execution
from app.cuda.runtime import features_of, find_tensorrt, open_tensorrt
from app.cuda.stopwatch import time_executions
from app.engines.backend import BuildRequest, get_backend
from app.engines.tensorrt import TensorRtRunner
from app.errors import EngineProblem, UnsupportedOption
from app.quant.qdq import model_to_bytes
from app.spec import Precision
from tests.gpu.digits import ORACLE, SHAPES, accuracy, build_digits
from tests.quant.samples import digits_images, digits_model

TENSORRT = find_tensorrt()
needs_calibrator = pytest.mark.skipif(
    TENSORRT is None or not features_of(TENSORRT).int8_calibrator, reason="TensorRT here has no calibrator, or is not there"
)


def test_the_probe_names_gpu_driver_and_versions() -> None:
    info = get_backend("tensorrt").probe()
    assert info is not None
    gpu = info.gpus[0]
    assert info.compute_capabilities == (gpu["compute_capability"],)
    assert {"fp32", "fp16", "int8"} <= set(info.precisions)
    assert gpu["memory_bytes"] > 1 << 30
    assert gpu["driver"].split(".")[0].isdigit()
    assert gpu["name"]
    assert gpu["pci"]


@pytest.mark.parametrize(
    ("precision", "float_type"), [("fp32", "fp32"), ("fp16", "fp32"), ("bf16", "fp32"), ("int8", "fp32"), ("int8", "fp16")]
)
def test_digits_keep_their_accuracy(tmp_path: Path, precision: Precision, float_type: str) -> None:
    request, result, _ = build_digits(tmp_path, precision, float_type=float_type)
    assert result.metadata["quantization"] == "explicit"
    assert result.metadata["precision"] == precision
    if precision != "bf16":  # a flag, which TensorRT need not follow where fp32 is faster
        assert result.metadata["layers"][precision] > 0
    assert 0.965 <= accuracy(request.plan) <= 0.977


def test_fp8_keeps_the_digits_accuracy_where_the_gpu_has_it(tmp_path: Path) -> None:
    info = get_backend("tensorrt").probe()
    if info is None or "fp8" not in info.precisions:
        pytest.skip("this GPU, or TensorRT, has no fp8")
    request, _, _ = build_digits(tmp_path, "fp8", float_type="fp16")
    assert 0.96 <= accuracy(request.plan) <= 0.98


@needs_calibrator
@pytest.mark.parametrize(("method", "lowest", "highest"), [("minmax", 0.965, 0.977), ("entropy2", 0.60, 0.65)])
def test_an_implicit_engine_runs_the_cache_that_it_got(tmp_path: Path, method: str, lowest: float, highest: float) -> None:
    # Beside fp32 TensorRT takes INT8 wherever it finds that quicker: not for sure while other tests keep the GPU busy.
    found: list[float] = []
    for _ in range(3):
        request, result, log = build_digits(tmp_path, cache=ORACLE / f"mnist-{method}.cache", float_type="fp32")
        assert result.metadata["quantization"] == "implicit"
        assert not [line for line in log if "Missing scale" in line]
        found.append(accuracy(request.plan))
        if lowest <= found[-1] <= highest and result.metadata["layers"]["int8"]:
            return
    raise AssertionError(found)


@needs_calibrator
def test_an_implicit_engine_leaves_excluded_nodes_float(tmp_path: Path) -> None:
    cache = ORACLE / "mnist-minmax.cache"
    convolutions = {node.output[0] for node in digits_model().graph.node if node.op_type == "Conv"}
    _, all_int8, _ = build_digits(tmp_path, cache=cache)
    _, all_float, _ = build_digits(tmp_path, cache=cache, kept_float=frozenset(convolutions))
    assert all_float.metadata["layers"]["int8"] < all_int8.metadata["layers"]["int8"]


@pytest.mark.parametrize("options", [{"hardware_compatible": True}, {"tf32": True}, {"workspace_bytes": 64 << 20}])
def test_options_are_taken_and_the_plan_runs(tmp_path: Path, options: dict[str, Any]) -> None:
    request, result, _ = build_digits(tmp_path, "fp32", **options)
    assert all(result.metadata[name] == value for name, value in options.items() if name in result.metadata)
    assert 0.965 <= accuracy(request.plan) <= 0.977


def test_batches_of_any_size_give_the_same_answers(tmp_path: Path) -> None:
    request, _, _ = build_digits(tmp_path, "fp32")
    runner = TensorRtRunner(request.plan.read_bytes(), lambda _: None)
    pictures, _ = digits_images()
    whole = runner.run(pictures[:230])["output"]
    single = np.concatenate([runner.run(pictures[place : place + 1])["output"] for place in (0, 129, 229)])
    runner.close()
    assert whole.shape == (230, 10)
    np.testing.assert_allclose(single, whole[[0, 129, 229]], rtol=1e-4, atol=1e-4)


def test_a_timing_cache_is_written_and_reused(tmp_path: Path) -> None:
    timings = tmp_path / "timings"
    build_digits(tmp_path, "fp16", optimization_level=2, timing_cache=timings)
    first = timings.read_bytes()
    _, _, log = build_digits(tmp_path, "fp16", optimization_level=2, timing_cache=timings)
    assert len(timings.read_bytes()) >= len(first) > 0
    assert not [line for line in log if "timing cache" in line.lower() and "refused" in line]


def test_a_spoilt_timing_cache_is_not_taken(tmp_path: Path) -> None:
    timings = tmp_path / "timings"
    timings.write_bytes(b"no timing cache at all")
    request, _, _ = build_digits(tmp_path, "fp32", timing_cache=timings)
    assert request.plan.exists()
    assert timings.read_bytes() != b"no timing cache at all"


def test_plans_are_timed_in_turns(tmp_path: Path, gpu: Device) -> None:
    request, _, _ = build_digits(tmp_path, "fp16")
    executions = {name: Execution(open_tensorrt(lambda _: None), request.plan.read_bytes()) for name in ("one", "other")}
    for execution in executions.values():
        execution.take_shapes({"input": (50, 1, 28, 28)})
    taken = time_executions(executions, rounds=3)
    assert all(0 < latency.median_ms <= latency.p99_ms < 1000 for latency in taken.values())
    assert taken["one"].runs == 150
    assert taken["one"].median_ms == pytest.approx(taken["other"].median_ms, rel=0.5)


def test_what_is_for_another_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOption, match=r"7\.5"):
        build_digits(tmp_path, "fp32", compute_capability=("7.5",))


def test_a_model_that_does_not_parse_fails_with_the_parsers_words(tmp_path: Path) -> None:
    model = digits_model()
    model.graph.node[0].op_type = "NoSuchOp"
    path = tmp_path / "broken.onnx"
    path.write_bytes(model_to_bytes(model))
    with pytest.raises(EngineProblem, match="NoSuchOp"):
        get_backend("tensorrt").build(BuildRequest(path, tmp_path / "p", "fp32", shapes=SHAPES), lambda _: None)


def test_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_bytes(b"no plan" * 100)
    with pytest.raises(EngineProblem, match="tensorrt"):
        get_backend("tensorrt").open(plan, 1)


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(digits_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    request = BuildRequest(path, tmp_path / "plan", "fp32", shapes=SHAPES, optimization_level=0)
    get_backend("tensorrt").build(request, lambda _: None)
    assert 0.965 <= accuracy(request.plan) <= 0.977
