"""Preparing graphs keeps what they compute; activations are what they should be."""

import numpy as np
import onnx
import pytest

from app.errors import ModelAlreadyQuantized, ModelUnsupportedOp
from app.quant.graph import find_activations, find_needed_tensors, prepare_model
from app.quant.opset import get_opset
from tests.quant.nets import NETS, Net, images, resnet, run
from tests.quant.samples import digits_model, efficientnet_model, parse_oracle


@pytest.mark.parametrize("name", NETS)
def test_prepared_model_computes_the_same(name: str) -> None:
    model = NETS[name]()
    batch = images(model)
    prepared = prepare_model(model)
    onnx.checker.check_model(prepared, full_check=True)
    assert get_opset(prepared) >= 13
    for output, value in run(model, batch).items():
        np.testing.assert_allclose(run(prepared, batch)[output], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_preparing_twice_changes_nothing(name: str) -> None:
    prepared = prepare_model(NETS[name]())
    assert prepare_model(prepared) == prepared


@pytest.mark.parametrize("name", NETS)
def test_needed_tensors_are_activations_of_the_model_as_given(name: str) -> None:
    model = NETS[name]()
    needed = find_needed_tensors(model)
    assert needed
    assert set(needed) <= set(find_activations(model))


@pytest.mark.parametrize("name", NETS)
def test_activations_that_remain_keep_name_and_value(name: str) -> None:
    model = NETS[name]()
    batch = images(model)
    prepared = prepare_model(model)
    kept = [tensor for tensor in find_activations(prepared) if tensor in set(find_activations(model)) - {"input"}]
    before, after = run(model, batch, kept), run(prepared, batch, kept)
    for tensor in kept:
        np.testing.assert_allclose(after[tensor], before[tensor], rtol=1e-4, atol=1e-4)


def test_the_model_given_is_not_touched() -> None:
    model = resnet()
    before = model.SerializeToString(deterministic=True)
    prepare_model(model)
    find_needed_tensors(model)
    assert model.SerializeToString(deterministic=True) == before


def test_batchnorms_and_constants_are_gone() -> None:
    left = {node.op_type for name in NETS for node in prepare_model(NETS[name]()).graph.node}
    assert not left & {"BatchNormalization", "Identity", "Dropout", "Constant", "Cast", "Pad"}


def test_digits_have_the_sixteen_activations_that_tensorrt_calibrates() -> None:
    ours = set(find_activations(digits_model()))
    theirs = set(parse_oracle("entropy2"))
    assert len(ours) == 16
    # TensorRT's cache names constants and its own inner tensors as well.
    assert theirs - ours == {"10.weight_output", "/10/Gemm_output", "10.bias_output", "ONNXTRT_Broadcast_output"}
    assert ours <= theirs


def test_shape_arithmetic_is_no_activation() -> None:
    names = set(find_activations(NETS["hidden-weights"]()))
    assert names == {"input", "c1", "r1", "c2", "c2_same", "dropped", "flat", "output"}


def test_float_shape_arithmetic_is_no_activation() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Cast", [net.node("Shape", ["input"], "shape")], "shape_float", to=1)
    net.node("Cast", [net.node("Mul", ["shape_float", net.constant("one", [1, 1, 1, 1])], "same_float")], "same", to=7)
    net.node("Reshape", [net.conv("input", "c", 16, 16), "same"], "output")
    assert find_activations(net.model({"output": ["N", 16, 8, 8]})) == ["input", "c", "output"]


def test_a_batchnorm_that_others_read_around_stays() -> None:
    net = Net(["N", 16, 8, 8])
    net.batchnorm(net.conv("input", "c", 16, 16), "bn", 16)
    net.node("Add", ["c", "bn"], "output")
    assert any(n.op_type == "BatchNormalization" for n in prepare_model(net.model({"output": ["N", 16, 8, 8]})).graph.node)


@pytest.mark.parametrize(("value", "pads"), [(1.0, [0, 0, 1, 1, 0, 0, 1, 1]), (0.0, [0, 1, 1, 1, 0, 0, 1, 1])])
def test_a_pad_that_is_not_zeros_around_the_picture_stays(value: float, pads: list[int]) -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Pad", ["input", net.constant("pads", pads, np.int64), net.constant("value", value)], "padded")
    net.conv("padded", "output", 16 + pads[1], 16)
    model = net.model({"output": ["N", 16, 10, 10]})
    assert any(node.op_type == "Pad" for node in prepare_model(model).graph.node)


def test_a_constant_that_explodes_is_not_computed() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("ConstantOfShape", [net.constant("sizes", [1 << 20, 1 << 20], np.int64)], "huge")
    net.node("Add", [net.node("ReduceMax", ["huge"], "one", keepdims=0), "input"], "sum")
    net.conv("sum", "output", 16, 16)
    prepared = prepare_model(net.model({"output": ["N", 16, 8, 8]}))
    assert any(node.op_type == "ConstantOfShape" for node in prepared.graph.node)


def test_quantized_models_and_unknown_opsets_are_refused() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("QuantizeLinear", ["input", net.constant("s", 0.1), net.constant("z", 0, np.int8)], "q")
    net.node("DequantizeLinear", ["q", "s", "z"], "output")
    with pytest.raises(ModelAlreadyQuantized):
        prepare_model(net.model({"output": ["N", 16, 8, 8]}))
    with pytest.raises(ModelUnsupportedOp):
        prepare_model(resnet(99))


def test_control_flow_keeps_what_its_branches_read() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Identity", [net.conv("input", "c", 16, 16)], "seen")
    branches = {}
    for branch, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = onnx.helper.make_empty_tensor_value_info(f"{branch}_out")
        out.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        node = onnx.helper.make_node(op, ["seen"], [f"{branch}_out"])
        branches[branch] = onnx.helper.make_graph([node], branch, [], [out])
    net.node("If", [net.constant("yes", True, np.bool_)], "output", **branches)
    model = net.model({"output": ["N", 16, 8, 8]})
    batch = images(model)
    np.testing.assert_array_equal(run(prepare_model(model), batch)["output"], run(model, batch)["output"])


def test_efficientnet_loses_its_dynamic_pads() -> None:
    model = efficientnet_model()
    prepared = prepare_model(model)
    kinds = {node.op_type for node in prepared.graph.node}
    assert not kinds & {"Pad", "Constant", "ConstantOfShape", "Slice", "Transpose", "Cast"}
    batch = np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    np.testing.assert_allclose(run(prepared, batch)["output"], run(model, batch)["output"], atol=1e-5)
    assert len(find_activations(model)) == 112
