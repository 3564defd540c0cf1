"""Centred activations: the same function in float, steps half as large in INT8, and only where it may be done."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.quant.graph import find_needed_tensors
from app.quant.qdq import QuantizedModel, quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import NETS, Net, images, measured_scales, run


def pointwise_net(activation: str = "Relu", pads: int = 0) -> onnx.ModelProto:
    """Conv, an activation at zero, a pointwise Conv (padded or not) and a Gemm behind another activation."""
    net = Net(["N", 3, 8, 8])
    bounds = [net.constant("low", 0), net.constant("high", 6)] if activation == "Clip" else []
    net.node(activation, [net.conv("input", "first", 3, 32), *bounds], "positive")
    net.node("GlobalAveragePool", [net.conv("positive", "second", 32, 32, 1, pads=[pads] * 4)], "pooled")
    net.node("Gemm", [net.node("Flatten", ["pooled"], "flat"), net.weight("w1", 32, 32), net.weight("b1", 32)], "third")
    net.node("Gemm", [net.node("Relu", ["third"], "deep"), net.weight("w2", 10, 32), net.weight("b2", 10)], "output", transB=1)
    return net.model({"output": ["N", 10]})


def quantized(model: onnx.ModelProto, center: bool) -> QuantizedModel:
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    return quantize_model(model, scales, QuantizeSpec(center=center, bias_correction=center), tune=lambda *_: {})


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_in_float_nothing_changes_and_in_int8_steps_are_halved(activation: str) -> None:
    model = pointwise_net(activation)
    batch = images(model, 16)
    plain, centred = quantized(model, False), quantized(model, True)
    assert [row["tensor"] for row in centred.report["centred"]] == ["positive", "deep"]
    np.testing.assert_allclose(run(centred.float_model, batch)["output"], run(model, batch)["output"], rtol=1e-4, atol=1e-4)
    for name in ("positive", "deep"):
        assert scale_of(centred.model, name) == np.float32(scale_of(plain.model, name) / 2)
        values = run(centred.model, batch, [name])[name]
        assert -values.min() == pytest.approx(127 * scale_of(centred.model, name), rel=1e-6)
    assert scale_of(centred.model, "flat") == scale_of(plain.model, "flat")


def test_zeros_of_a_padding_are_no_shifted_zeros() -> None:
    assert [row["tensor"] for row in quantized(pointwise_net(pads=1), True).report["centred"]] == ["deep"]


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("placement", ["default", "fused"])
def test_every_net_computes_the_same(name: str, placement: str) -> None:
    model = NETS[name]()
    batch = images(model)
    scales = measured_scales(model, batch, find_needed_tensors(model))
    spec = QuantizeSpec.model_validate({"center": True, "bias_correction": True, "placement": placement})
    found = run(quantize_model(model, scales, spec, tune=lambda *_: {}).float_model, batch)
    for output, values in run(model, batch).items():
        np.testing.assert_allclose(found[output], values, rtol=1e-3, atol=1e-3)


def scale_of(model: onnx.ModelProto, tensor: str) -> np.float32:
    stored = {each.name: each for each in model.graph.initializer}
    (quantize,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == tensor]
    return np.float32(numpy_helper.to_array(stored[quantize.input[1]]))
