"""`enginesmith bench engines` with ONNX Runtime: that it builds and measures each kind, not what it says."""

import json

import onnx
import pytest

from app.bench.engine_steps import find_input
from app.client.cli import run_command
from app.cuda.runtime import find_tensorrt
from tests.running import CALIBRATION, MODEL, ROOT


def test_every_kind_is_built_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--images", str(CALIBRATION), "--backend", "onnxruntime", "--batch", "3"]
    assert run_command(["bench", "engines", str(MODEL), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["net"], document["backend"], document["batch"]) == ("mnist-cnn", "onnxruntime", 3)
    engines = document["engines"]
    assert list(engines) == ["fused", "default", "conservative", "fp32"]
    for engine in engines.values():
        assert 0 < engine["median_ms"] <= engine["p99_ms"]
        assert engine["images_per_second"] == pytest.approx(3000 / engine["median_ms"], abs=1, rel=0.01)
    assert engines["fused"]["plan_bytes"] < engines["fp32"]["plan_bytes"] / 2


def test_scales_come_from_a_cache_and_what_cannot_be_built_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(ROOT / "tests" / "oracle" / "mnist-minmax.cache")]
    kinds = ["--kind", "default", "--kind", "bf16", "--kind", "implicit"]
    assert run_command(["bench", "engines", str(MODEL), *cache, "--backend", "onnxruntime", *kinds]) == 0
    table = capsys.readouterr().out
    assert "bf16 was not built: engine.precision bf16 is not available" in " ".join(table.split())
    assert "implicit was not built: implicit is not available" in " ".join(table.split())
    assert "mnist-cnn, batch 8, onnxruntime" in table


def test_a_cache_of_another_model_leaves_nothing_to_build(capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(ROOT / "tests" / "oracle" / "kinds-pools-minmax.cache")]
    assert run_command(["bench", "engines", str(MODEL), *cache, "--backend", "onnxruntime", "--kind", "default"]) == 2
    assert "/2/Relu_output_0" in capsys.readouterr().err


def test_an_unknown_kind_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "engines", str(MODEL), "--kind", "int4"]) == 2
    assert "not int4" in capsys.readouterr().err


@pytest.mark.skipif(find_tensorrt() is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_benchmark_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "engines", str(MODEL), "--kind", "fp32"]) == 2
    assert "pip install enginesmith[tensorrt]" in capsys.readouterr().err


def test_weights_are_no_inputs() -> None:
    model = onnx.load(MODEL)
    weight = model.graph.initializer[0]
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    assert find_input(model).name == "input"
