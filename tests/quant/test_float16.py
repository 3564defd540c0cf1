"""What stays float becomes fp16 where it fits; graph inputs and outputs stay fp32."""

import numpy as np
import onnx
import pytest

from app.quant.float16 import float16_from_model
from app.quant.graph import find_needed_tensors, prepare_model
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import FLOAT, NETS, Net, images, measured_scales, run

HALF = onnx.TensorProto.FLOAT16


def types_of(model: onnx.ModelProto) -> list[int]:
    return [value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]]


@pytest.mark.parametrize("name", NETS)
def test_fp16_nets_are_valid_and_close(name: str) -> None:
    model = prepare_model(NETS[name]())
    half, kept = float16_from_model(model)
    onnx.checker.check_model(half, full_check=True)
    assert kept == []
    assert set(types_of(half)) == {FLOAT}
    assert all(tensor.data_type != FLOAT or tensor.name == "scales" for tensor in half.graph.initializer)
    batch = images(model)
    for output, value in run(model, batch).items():
        np.testing.assert_allclose(run(half, batch)[output], value, rtol=0.02, atol=0.02 * np.abs(value).max())


@pytest.mark.parametrize("name", NETS)
def test_quantized_nets_with_fp16_are_valid(name: str) -> None:
    model = NETS[name]()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    result = quantize_model(model, scales, QuantizeSpec(float_type="fp16"))
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report["kept_fp32"] == []
    assert any(tensor.data_type == HALF for tensor in result.model.graph.initializer)


def test_weights_beyond_fp16_stay_fp32_and_are_named() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Conv", ["input", net.constant("big", np.full((16, 16, 1, 1), 1e5))], "c")
    net.node("Mul", [net.node("Relu", ["c"], "r"), net.constant("small", 1e-6)], "scaled")
    net.conv("scaled", "output", 16, 16)
    model = net.model({"output": ["N", 16, 8, 8]})
    half, kept = float16_from_model(prepare_model(model))
    assert [row["name"] for row in kept] == ["c_node"]
    assert "big reaches 1e+05" in kept[0]["reason"]
    onnx.checker.check_model(half, full_check=True)
    assert next(t for t in half.graph.initializer if t.name == "big").data_type == FLOAT


def test_scales_that_fp16_cannot_hold_stay_fp32_and_are_named() -> None:
    net = Net(["N", 16, 8, 8])
    net.conv("input", "output", 16, 16)
    result = quantize_model(net.model({"output": ["N", 16, 8, 8]}), {"input": 1e-7}, QuantizeSpec(float_type="fp16"))
    assert {row["name"] for row in result.report["kept_fp32"]} == {"input_QuantizeLinear", "input_DequantizeLinear"}
    onnx.checker.check_model(result.model, full_check=True)


def test_clip_without_a_real_bound_becomes_fp16() -> None:
    net = Net(["N", 16, 8, 8])
    bounds = [net.constant("low", 0.0), net.constant("high", np.finfo(np.float32).max)]
    net.node("Clip", [net.conv("input", "c", 16, 16), *bounds], "output")
    half, kept = float16_from_model(prepare_model(net.model({"output": ["N", 16, 8, 8]})))
    assert kept == []
    onnx.checker.check_model(half, full_check=True)


def test_branches_read_fp32() -> None:
    net = Net(["N", 16, 8, 8])
    net.conv("input", "seen", 16, 16)
    out = onnx.helper.make_tensor_value_info("branch_out", FLOAT, None)
    branch = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["seen"], ["branch_out"])], "b", [], [out])
    net.node("If", [net.constant("yes", True, np.bool_)], "output", then_branch=branch, else_branch=branch)
    model = net.model({"output": ["N", 16, 8, 8]})
    half, kept = float16_from_model(prepare_model(model))
    assert [row["reason"] for row in kept] == ["it has subgraphs"]
    batch = images(model)
    np.testing.assert_allclose(run(half, batch)["output"], run(model, batch)["output"], rtol=0.02, atol=0.05)


def test_what_calibration_saw_out_of_range_stays_fp32_up_to_the_next_known_tensor() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Relu", [net.conv("input", "c", 16, 16)], "loud")
    net.node("MaxPool", [net.conv("loud", "d", 16, 16)], "pooled", kernel_shape=[2, 2])
    net.node("Sigmoid", ["pooled"], "calm")
    net.conv("calm", "output", 16, 16)
    model = net.model({"output": ["N", 16, 7, 7]})
    scales = {"input": 0.1, "loud": 700.0, "calm": 0.01}
    result = quantize_model(model, scales, QuantizeSpec(float_type="fp16"))
    kept = {row["name"]: row["reason"] for row in result.report["kept_fp32"]}
    names = ["c_node", "loud_node", "loud_QuantizeLinear", "loud_DequantizeLinear", "d_node", "pooled_node", "calm_node"]
    assert list(kept) == names
    assert set(kept.values()) == {"loud reached 8.89e+04 in calibration, fp16 ends at 65504"}
    casts = [node.input[0] for node in result.model.graph.node if node.op_type == "Cast"]
    assert casts == ["input", "input_dequantized_fp16", "calm", "output_fp16"]  # none parts a weight from its reader
    onnx.checker.check_model(result.model, full_check=True)


def test_values_beyond_fp16_come_out_right() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Mul", ["input", net.constant("up", 3e4)], "loud")
    net.node("Add", ["loud", net.constant("more", 1e4)], "louder")
    net.node("Tanh", [net.node("Mul", ["louder", net.constant("down", 1e-5)], "quiet")], "output")
    model = net.model({"output": ["N", 16, 8, 8]})
    batch = images(model)
    expected = run(model, batch, ["loud", "louder"])
    amax = {name: float(np.abs(expected[name]).max()) for name in ("loud", "louder")}
    half, kept = float16_from_model(prepare_model(model), amax)
    assert [row["name"] for row in kept] == ["loud_node", "louder_node", "quiet_node", "output_node"]
    np.testing.assert_allclose(run(half, batch)["output"], expected["output"], rtol=1e-5)


def test_a_normalization_by_hand_survives_large_and_tiny_numbers() -> None:
    net = Net(["N", 16, 32])
    net.node("ReduceMean", ["input"], "mean", axes=[2])
    net.node("Sub", ["input", "mean"], "centred")
    net.node("ReduceMean", [net.node("Pow", ["centred", net.constant("two", 2.0)], "square")], "variance", axes=[2])
    net.node("Sqrt", [net.node("Add", ["variance", net.constant("epsilon", 1e-12)], "sum")], "deviation")
    net.node("Div", ["centred", "deviation"], "output")
    model = net.model({"output": ["N", 16, 32]})
    batch = images(model) * 1000  # squares beyond 65504
    batch[0] /= 1e7
    half, kept = float16_from_model(prepare_model(model))
    assert [row["reason"] for row in kept] == ["epsilon is 1e-12, which fp16 rounds to zero"]
    expected, got = run(model, batch[1:])["output"], run(half, batch[1:])["output"]
    np.testing.assert_allclose(got, expected, rtol=0.01, atol=0.01)
    assert np.isfinite(run(half, batch)["output"]).all()
