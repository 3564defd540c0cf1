"""A Clip whose bound INT8 saturates at anyway is a Relu: the same steps, and a Clip again where something reads floats."""

from typing import Any

import numpy as np
import onnx
import pytest

from app.quant.bypass import group_names, with_float
from app.quant.nodes import index_graph
from app.quant.qdq import QuantizedModel, quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import Net, images, run

SIX = 6 / 127


def clipped(high: float = 6.0, low: float = 0.0, **options: Any) -> tuple[onnx.ModelProto, Any]:
    net = Net(["N", 16, 8, 8])
    bounds = [net.constant("low", low), net.constant("high", high)]
    net.conv(net.node("Clip", [net.conv("input", "c", 16, 16), *bounds], "k"), "output", 16, 16)
    model = net.model({"output": ["N", 16, 8, 8]})
    return model, {"placement": "fused"} | options


def quantized(model: onnx.ModelProto, options: Any, scale: float) -> QuantizedModel:
    return quantize_model(model, {"input": 0.03, "k": scale}, QuantizeSpec.model_validate(options))


def activation(model: onnx.ModelProto) -> str:
    return next(node.op_type for node in model.graph.node if node.output[0] in ("k", "k_fp16"))


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("scale", [SIX, SIX * 1.001, SIX / 2, SIX / 50])
def test_steps_are_the_same(scale: float, float_type: str) -> None:
    model, options = clipped(float_type=float_type)
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.full((16, 16, 3, 3), 0.5, np.float32), "c.weight"))
    result = quantized(model, options, scale)
    assert activation(result.model) == "Relu"
    twin = onnx.ModelProto()
    twin.CopyFrom(result.model)
    node = next(node for node in twin.graph.node if node.op_type == "Relu")
    kind = np.float32 if float_type == "fp32" else np.float16
    twin.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, kind), name) for name, value in (("low", 0), ("high", 6))
    )
    node.op_type = "Clip"
    node.input.extend(["low", "high"])
    batch = images(model) * 5
    assert (run(result.float_model, batch, ["c"])["c"] > 6).any()
    np.testing.assert_array_equal(run(result.model, batch)["output"], run(twin, batch)["output"])


@pytest.mark.parametrize(("high", "low", "scale"), [(6.0, 0.0, 6 / 126), (6.0, -1.0, SIX), (5.0, 0.0, SIX)])
def test_bounds_that_do_not_saturate_stay(high: float, low: float, scale: float) -> None:
    model, options = clipped(high, low)
    assert activation(quantized(model, options, scale).model) == "Clip"


def test_other_placements_keep_their_clips() -> None:
    model, options = clipped()
    assert activation(quantized(model, options | {"placement": "default"}, SIX).model) == "Clip"


def test_a_clip_that_something_reads_in_float_stays() -> None:
    net = Net(["N", 16, 8, 8])
    bounds = [net.constant("low", 0.0), net.constant("high", 6.0)]
    net.conv(net.node("Clip", [net.conv("input", "c", 16, 16), *bounds], "k"), "output", 16, 16)
    net.node("Sigmoid", ["k"], "other")
    model = net.model({"output": ["N", 16, 8, 8], "other": ["N", 16, 8, 8]})
    assert activation(quantized(model, {"placement": "fused"}, SIX).model) == "Clip"


def test_a_group_in_float_reads_what_was_clipped() -> None:
    model, options = clipped()
    result = quantized(model, options, SIX)
    names = group_names(result.float_model, result.model)
    batch = images(model) * 5
    whole = with_float(result.model, result.float_model, names)
    np.testing.assert_array_equal(run(whole, batch)["output"], run(result.float_model, batch)["output"])
    first = with_float(result.model, result.float_model, names[:1])
    assert index_graph(first.graph).producers["k"].op_type == "Relu"  # still read by its quantizer alone
