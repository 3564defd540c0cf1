"""Cross-layer equalization: the same outputs bit for bit, channels of like ranges, a better INT8 model."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from app.quant.channels import report_channels, spread_of
from app.quant.equalize import equalize_model
from app.quant.graph import find_needed_tensors, prepare_model
from app.quant.placement import plan_placement
from app.quant.qdq import quantize_model
from app.quant.tensor_types import infer_types
from app.spec import QuantizeSpec
from tests.quant.nets import Net, images, measured_scales, resnet, run


def uneven_net(between: str = "Relu") -> onnx.ModelProto:
    """Conv, depthwise Conv, pointwise Conv, whose channels differ by factors of a thousand, and a Conv behind a Clip."""
    net = Net(["N", 3, 16, 16])
    zero, six = net.constant("zero", 0.0), net.constant("six", 6.0)
    net.node(between, [net.batchnorm(net.conv("input", "wide", 3, 32), "wide_bn", 32)], "wide_out")
    net.node(between, [net.conv("wide_out", "deep", 1, 32, group=32)], "deep_out")
    net.node("Clip", [net.conv("deep_out", "point", 32, 16, 1), zero, six], "clipped")
    net.conv("clipped", "output", 16, 16)
    model = net.model({"output": ["N", 16, 16, 16]})
    gains = np.float32(10) ** np.random.default_rng(3).uniform(-1.5, 1.5, 32).astype(np.float32)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, gain in (("wide_bn.0", gains), ("wide_bn.1", gains), ("deep.weight", 1 / gains[:, None, None, None])):
        value = (numpy_helper.to_array(weights[name]) * gain).astype(np.float32)
        weights[name].CopyFrom(numpy_helper.from_array(value, name))
    return model


def equalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[dict[str, object]]]:
    prepared = prepare_model(model)
    return prepared, equalize_model(prepared)


def error_of(model: onnx.ModelProto, observed: onnx.ModelProto, spec: QuantizeSpec) -> float:
    batch = images(model)
    scales = measured_scales(observed, batch, find_needed_tensors(observed))
    expected = run(model, batch)["output"]
    return float(np.mean((run(quantize_model(model, scales, spec).model, batch)["output"] - expected) ** 2))


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu", "Clip"])
def test_outputs_stay_what_they_are_bit_for_bit(between: str) -> None:
    model = uneven_net(between)
    changed, rows = equalized(model)
    onnx.checker.check_model(changed, full_check=True)
    assert [(row["first"], row["second"]) for row in rows] == [("wide_node", "deep_node"), ("deep_node", "point_node")]
    before, after = (run(each, images(model))["output"] for each in (prepare_model(model), changed))
    assert np.array_equal(before, after)
    assert any(name.name.endswith("_equalized") for name in changed.graph.initializer)


def test_ranges_of_the_two_layers_become_alike() -> None:
    changed, rows = equalized(uneven_net())
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    convs = {
        node.name: [np.abs(arrays[name]) for name in node.input[1:]] for node in changed.graph.node if node.op_type == "Conv"
    }
    weight, bias = convs["wide_node"][0].max(axis=(1, 2, 3)), convs["wide_node"][1]
    first = np.maximum(weight, bias * weight.max() / bias.max())
    second = convs["deep_node"][0].max(axis=(1, 2, 3))
    assert np.all(np.abs(np.log2(first / second)) <= 1.0 + 1e-6)
    assert rows[0]["ratio_before"] > 10 * rows[0]["ratio_after"]  # type: ignore[operator]


def test_an_equalized_model_stays_as_it_is() -> None:
    changed, _ = equalized(uneven_net())
    before = changed.SerializeToString(deterministic=True)
    equalize_model(changed)
    assert changed.SerializeToString(deterministic=True) == before


def test_int8_gets_better() -> None:
    model = uneven_net()
    plain = error_of(model, model, QuantizeSpec())
    better = error_of(model, equalized(model)[0], QuantizeSpec(equalize=True))
    assert better < plain / 4


def net_with_a_constant_channel(share: float) -> onnx.ModelProto:
    """Conv, depthwise Conv, Conv; of the first one channel has small weights and a bias as large as the others'."""
    net = Net(["N", 3, 16, 16])
    weight = net.random.normal(size=(16, 3, 3, 3))
    weight[3] *= share
    first = net.node("Conv", ["input", net.constant("w", weight), net.constant("b", np.full(16, 0.5))], "first")
    deep = net.conv(net.node("Relu", [first], "first_out"), "deep", 1, 16, group=16)
    net.conv(net.node("Relu", [deep], "deep_out"), "output", 16, 16, 1)
    return net.model({"output": ["N", 16, 16, 16]})


@pytest.mark.parametrize("share", [1e-3, 1e-6, 1e-20, 1e-42])
def test_a_channel_that_is_a_constant_does_not_grow_past_the_others(share: float) -> None:
    model = net_with_a_constant_channel(share)
    changed, _ = equalized(model)
    batch = images(model)
    before, after = (run(each, batch, ["first_out"])["first_out"] for each in (prepare_model(model), changed))
    amax = [np.abs(made).max(axis=(0, 2, 3)) for made in (before, after)]
    assert amax[1][3] <= 2 * amax[1].max(initial=0, where=np.arange(16) != 3)
    plain, better = error_of(model, model, QuantizeSpec()), error_of(model, changed, QuantizeSpec(equalize=True))
    assert better < 2 * plain


def test_a_channel_is_moved_by_no_more_in_all_sweeps_together() -> None:
    net = Net(["N", 16, 8, 8])
    weight = net.random.normal(size=(16, 16, 1, 1))
    weight[3] *= 1e-30
    net.node("Conv", ["input", net.constant("w", weight)], "first")
    net.conv("first", "output", 16, 16)
    changed, _ = equalized(net.model({"output": ["N", 16, 8, 8]}))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    assert np.array_equal(arrays[changed.graph.node[0].input[1]][3], np.ldexp(weight[3].astype(np.float32), 16))


def test_what_two_nodes_read_or_a_clip_bounds_is_left_alone() -> None:
    _, rows = equalized(resnet())
    assert [(row["first"], row["second"]) for row in rows] == [("a1_node", "a2_node"), ("b1_node", "b2_node")]
    net = Net(["N", 16, 8, 8])
    net.node("Relu", [net.conv("input", "first", 16, 16)], "seen")
    net.conv("seen", "output", 16, 16)
    assert equalized(net.model({"output": ["N", 16, 8, 8], "seen": ["N", 16, 8, 8]}))[1] == []


def test_dead_channels_are_not_moved() -> None:
    net = Net(["N", 16, 8, 8])
    weight = np.random.default_rng(0).normal(size=(16, 16, 1, 1))
    weight[3] = 0
    net.node("Conv", ["input", net.constant("w", weight), net.constant("b", np.ones(16))], "first")
    net.conv("first", "output", 16, 16)
    changed, _ = equalized(net.model({"output": ["N", 16, 8, 8]}))
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    assert arrays[changed.graph.node[0].input[2]][3] == 1


def test_channels_are_reported() -> None:
    net = Net(["N", 16, 8, 8])
    weight = np.ones((16, 16, 1, 1))
    weight[:, 7], weight[5], weight[3] = 1e-3, 1e-3, 0
    weight[5, 7] = 0
    net.node("Conv", ["input", net.constant("w", weight)], "output")
    model = prepare_model(net.model({"output": ["N", 16, 8, 8]}))
    (row,) = report_channels(model.graph, plan_placement(model, infer_types(model), "default"))
    named = {"weight": "w", "scales": "channel", "channels": 16}
    assert {name: row[name] for name in named} == named
    assert row["ratio"] == pytest.approx(1000)
    assert [row[name] for name in ("dead", "faint", "lost_inputs")] == [
        {"count": 1, "channels": [3]}, {"count": 1, "channels": [5]}, {"count": 1, "channels": [7]},
    ]  # fmt: skip
    assert spread_of(np.zeros(3)) is None


def test_a_quantized_model_tells_both() -> None:
    model = uneven_net()
    batch = images(model)
    observed = equalized(model)[0]
    scales = measured_scales(observed, batch, find_needed_tensors(observed))
    report = quantize_model(model, scales, QuantizeSpec(equalize=True)).report
    assert len(report["equalized"]) == 2
    assert len(report["channels"]) == report["weights"]
    assert (
        quantize_model(model, measured_scales(model, batch, find_needed_tensors(model)), QuantizeSpec()).report["equalized"]
        == []
    )


@pytest.mark.parametrize("placement", ["default", "fused"])
def test_a_head_behind_a_pooled_convolution_is_quantized_as_it_was_observed(placement: str) -> None:
    net = Net(["N", 3, 8, 8])
    net.node("GlobalAveragePool", [net.node("Relu", [net.conv("input", "c", 3, 32)], "r")], "pool")
    net.node("Relu", [net.conv("pool", "embedding", 32, 32, 1)], "e")
    gains = np.float32(10) ** np.random.default_rng(1).uniform(-1.5, 1.5, 32).astype(np.float32)
    weight = net.random.normal(0, 0.2, (10, 32)).astype(np.float32) * gains
    net.node("Gemm", [net.node("Flatten", ["e"], "flat"), net.constant("w", weight)], "output", transB=1)
    model = net.model({"output": ["N", 10]})
    observed, _ = equalized(model)
    expected = run(model, images(model))["output"]
    error = error_of(model, observed, QuantizeSpec.model_validate({"placement": placement, "equalize": True}))
    assert error < 1e-3 * float(np.mean(expected**2))
