"""Heads as convolutions: the same function, under the old names, and only where it is one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from app.quant.graph import prepare_model
from app.quant.heads import convolve_heads
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import Net, images, run

CLASSES = 5


def pooled(batch: int | str = "N", size: int = 8) -> Net:
    net = Net([batch, 3, size, size])
    net.node("GlobalAveragePool", [net.node("Relu", [net.conv("input", "c", 3, 16)], "r")], "pool")
    return net


def flatten(net: Net) -> str:
    return net.node("Flatten", ["pool"], "flat", axis=1)


def gemm(net: Net) -> None:
    net.node("Gemm", [flatten(net), net.weight("w", CLASSES, 16), net.weight("b", CLASSES)], "output", transB=1)


def gemm_as_it_lies(net: Net) -> None:
    net.node("Gemm", [flatten(net), net.weight("w", 16, CLASSES), net.constant("b", [0.5])], "output")


def gemm_of_a_row(net: Net) -> None:
    net.node("Gemm", [flatten(net), net.weight("w", 16, CLASSES), net.weight("b", 1, CLASSES)], "output")


def gemm_without_bias(net: Net) -> None:
    net.node(
        "Gemm",
        [net.node("Squeeze", ["pool", net.constant("axes", [2, 3], np.int64)], "flat"), net.weight("w", 16, CLASSES)],
        "output",
    )


def matmul_and_add(net: Net) -> None:
    flat = net.node("Reshape", ["pool", net.constant("shape", [-1, 16], np.int64)], "flat")
    net.node("Add", [net.weight("b", CLASSES), net.node("MatMul", [flat, net.weight("w", 16, CLASSES)], "m")], "output")


def matmul_alone(net: Net) -> None:
    net.node("MatMul", [flatten(net), net.weight("w", 16, CLASSES)], "output")


def scaled(net: Net) -> None:
    net.node("Gemm", [flatten(net), net.weight("w", 16, CLASSES)], "output", alpha=2.0)


def scaled_bias(net: Net) -> None:
    net.node("Gemm", [flatten(net), net.weight("w", 16, CLASSES), net.weight("b", CLASSES)], "output", beta=0.5)


def read_twice(net: Net) -> None:
    net.node("Gemm", [flatten(net), net.weight("w", 16, 16)], "m")
    net.node("Add", ["m", "flat"], "output")


def larger_picture(net: Net) -> None:
    net.node("Gemm", [net.node("Flatten", ["r"], "flat", axis=1), net.weight("w", 16 * 64, CLASSES)], "output")


def computed_bias(net: Net) -> None:
    net.node(
        "Gemm",
        [flatten(net), net.weight("w", 16, 16), net.node("Relu", [net.node("Flatten", ["pool"], "again", axis=1)], "b")],
        "output",
    )


def further_layers(net: Net) -> None:
    net.node("HardSwish", [net.node("Gemm", [flatten(net), net.weight("w", 16, 16)], "m")], "output")


def softmax(net: Net) -> None:
    net.node("Softmax", [net.node("Gemm", [flatten(net), net.weight("w", 16, CLASSES)], "m")], "output", axis=1)


HEADS = [gemm, gemm_as_it_lies, gemm_of_a_row, gemm_without_bias, matmul_and_add, matmul_alone, scaled, scaled_bias]
OTHERS = [further_layers, read_twice, larger_picture, computed_bias]


def convolved(make: Callable[[Net], None], classes: int = CLASSES) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    net = pooled()
    make(net)
    before = prepare_model(net.model({"output": ["N", classes]}))
    after = onnx.ModelProto()
    after.CopyFrom(before)
    convolve_heads(after)
    return before, after


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("make", HEADS)
def test_a_head_becomes_a_convolution_that_computes_the_same(make: Callable[[Net], None]) -> None:
    before, after = convolved(make)
    assert ops(after) == ["Conv", "Relu", "GlobalAveragePool", "Conv", "Flatten"]
    onnx.checker.check_model(after, full_check=True)
    batch = images(before)
    np.testing.assert_allclose(run(after, batch)["output"], run(before, batch)["output"], rtol=1e-5, atol=1e-6)
    assert after.graph.node[3].name in {node.name for node in before.graph.node if node.op_type in ("Gemm", "MatMul")}


@pytest.mark.parametrize("make", OTHERS)
def test_what_is_no_such_head_stays(make: Callable[[Net], None]) -> None:
    before, after = convolved(make, CLASSES if make not in (further_layers, read_twice, computed_bias) else 16)
    assert after == before


def test_a_softmax_may_stand_behind_it() -> None:
    before, after = convolved(softmax)
    assert ops(after) == ["Conv", "Relu", "GlobalAveragePool", "Conv", "Flatten", "Softmax"]
    batch = images(before)
    np.testing.assert_allclose(run(after, batch)["output"], run(before, batch)["output"], rtol=1e-5, atol=1e-6)


def test_two_heads_share_pooling_and_weights() -> None:
    net = pooled()
    net.weight("w", CLASSES, 16)
    for number in "12":
        net.node("Gemm", [net.node("Flatten", ["pool"], f"flat{number}", axis=1), "w"], f"output{number}", transB=1)
    model = prepare_model(net.model({"output1": ["N", CLASSES], "output2": ["N", CLASSES]}))
    batch = images(model)
    wanted = run(model, batch)
    convolve_heads(model)
    assert ops(model).count("Conv") == 3
    got = run(model, batch)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)


def quantized(**options: Any) -> Any:
    net = pooled()
    gemm(net)
    scales = dict.fromkeys(["input", "r", "pool", "flat"], 0.05)
    return quantize_model(net.model({"output": ["N", CLASSES]}), scales, QuantizeSpec.model_validate(options))


def test_placement_fused_alone_has_convolutions_for_heads() -> None:
    assert "Gemm" in ops(quantized(placement="default").model)
    result = quantized(placement="fused")
    assert "Gemm" not in ops(result.model)
    assert result.report["quantized"][-1] == {"node": "output_node", "op": "Conv", "multiply_adds": 16 * CLASSES}


@pytest.mark.parametrize("entry", ["output_node", "output", "output_convolution"])
def test_a_head_is_excluded_under_its_old_and_new_names(entry: str) -> None:
    result = quantized(placement="fused", exclude=[entry])
    assert [row["node"] for row in result.report["kept_float"]] == ["output_node"]


def test_an_fp16_model_s_int8_head_writes_fp32_at_once() -> None:
    result = quantized(placement="fused", float_type="fp16")
    assert [node.input[0] for node in result.model.graph.node if node.op_type == "Cast"] == ["input"]
    makers = {name: node for node in result.model.graph.node for name in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    conv = makers[makers["output"].input[0]]
    for name in conv.input[:2]:
        scale = constants[makers[name].input[1]]
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(scale, scale.astype(np.float16))  # as the node that quantizes has it
    assert result.report["kept_fp32"] == []


@pytest.mark.parametrize(("placement", "kept"), [("default", []), ("fused", []), ("conservative", ["output_node"])])
def test_a_narrow_convolution_of_pooled_pictures_is_int8_unless_conservative(placement: str, kept: list[str]) -> None:
    net = pooled()
    net.conv("r", "wide", 16, 16)
    net.conv(net.node("GlobalAveragePool", ["wide"], "again"), "output", 16, 4, 1, pads=[0, 0, 0, 0])
    scales = dict.fromkeys(["input", "r", "wide", "again"], 0.05)
    spec = QuantizeSpec.model_validate({"placement": placement})
    result = quantize_model(net.model({"output": ["N", 4, 1, 1]}), scales, spec)
    assert [row["node"] for row in result.report["kept_float"] if row["node"] == "output_node"] == kept
