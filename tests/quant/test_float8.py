"""Q/DQ in fp8: int8's pairs with E4M3 between them, close to FP32, and valid for ONNX Runtime and TensorRT-RTX."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.engines.onnxruntime import find_wrong_optimizers, open_session, session_options
from app.errors import QuantizeProblem
from app.quant.float8 import float8_from_int8
from app.quant.graph import find_needed_tensors
from app.quant.placement import PLACEMENTS
from app.quant.qdq import model_to_bytes, quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import NETS, Net, images, measured_scales, run
from tests.quant.samples import digits_images, digits_model, parse_oracle

PRODUCTS = {"Gemm", "MatMul"}


def quantized(model: onnx.ModelProto, scales: Any, **options: Any) -> onnx.ModelProto:
    return quantize_model(model, scales, QuantizeSpec.model_validate({"format": "fp8"} | options)).model


def run_here(model: onnx.ModelProto, batch: np.ndarray, path: Any) -> np.ndarray:
    path.write_bytes(model_to_bytes(model))
    session = open_session(path, session_options(1), find_wrong_optimizers(model))
    return np.asarray(session.run(None, {model.graph.input[0].name: batch})[0])


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_digits_keep_their_accuracy(tmp_path: Any, placement: str, float_type: str) -> None:
    model = quantized(digits_model(), parse_oracle("minmax"), placement=placement, float_type=float_type)
    onnx.checker.check_model(model, full_check=True)
    pictures, labels = digits_images()
    logits = run_here(model, pictures, tmp_path / "m.onnx")
    assert (logits.argmax(axis=1) == labels).mean() >= 0.96
    exact = np.asarray(run(model, pictures[:20], is_optimized=False)["output"])
    np.testing.assert_allclose(logits[:20], exact, rtol=0.05, atol=0.5)  # the optimizer is left what it computes rightly


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
def test_products_of_every_net_are_fp8_and_close(name: str, float_type: str) -> None:
    model = NETS[name]()
    batch = images(model)
    scales = measured_scales(model, batch, find_needed_tensors(model))
    spec = QuantizeSpec.model_validate({"format": "fp8", "placement": "fused", "float_type": float_type})
    if not {node.op_type for node in model.graph.node} & PRODUCTS:
        with pytest.raises(QuantizeProblem, match=r"FP8 .*matrix products"):
            quantize_model(model, scales, spec)
        return
    result = quantize_model(model, scales, spec)
    onnx.checker.check_model(result.model, full_check=True)
    assert {row["op"] for row in result.report["quantized"]} <= PRODUCTS
    got = run(result.model, batch, is_optimized=False)
    for output, value in run(model, batch).items():
        assert np.abs(got[output] - value).mean() <= 0.05 * np.abs(value).max(), output


def dense(weight: np.ndarray) -> onnx.ModelProto:
    net = Net(["N", 16, 4, 4])
    net.node("GlobalAveragePool", ["input"], "pool")
    net.node("Gemm", [net.node("Flatten", ["pool"], "flat"), net.constant("w", weight)], "output", transB=1)
    return net.model({"output": ["N", len(weight)]})


def test_weights_are_rounded_from_the_float_ones() -> None:
    weight = np.random.default_rng(1).normal(0, 0.2, (32, 16)).astype(np.float32)
    found = arrays(quantized(dense(weight), {"flat": 0.05}))
    scale = found["w_scale"]
    assert scale.shape == found["w_zero_point"].shape == ()
    assert scale == pytest.approx(np.abs(weight).max() / 448, rel=1e-6)
    expected = (weight / scale.astype(np.float64)).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(found["w_fp8"].view(np.uint8), expected.view(np.uint8))
    assert found["flat_scale"] == np.float32(np.float64(np.float32(0.05)) * 127 / 448)
    assert found["flat_zero_point"].dtype == ml_dtypes.float8_e4m3fn
    assert not any(value.dtype == np.int8 for value in found.values())


def test_dead_weights_have_scale_one() -> None:
    found = arrays(quantized(dense(np.zeros((32, 16), np.float32)), {"flat": 0.05}))
    assert found["w_scale"] == 1
    assert not found["w_fp8"].astype(np.float32).any()


def test_what_was_given_stays() -> None:
    result = quantize_model(digits_model(), parse_oracle("minmax"), QuantizeSpec())
    before = result.model.SerializeToString()
    float8_from_int8(result.model, result.float_model, "fp32")
    assert result.model.SerializeToString() == before


@pytest.mark.parametrize(
    "options", [{"bias_correction": True}, {"weight_rounding": "gptq"}, {"asymmetric": True}, {"exclude": "auto"}]
)
def test_options_made_for_int8_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="format int8"):
        QuantizeSpec.model_validate({"format": "fp8"} | options)
