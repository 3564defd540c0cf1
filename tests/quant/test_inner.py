"""What is inside a Gemm and a HardSwish can be computed beside them, in every opset, whatever names there are."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.quant.inner import append_inner, find_observable_inner

X = np.random.default_rng(0).normal(0, 3, (5, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
BIAS = np.array([1, -2, 3], np.float32)


def make_model(nodes: list[onnx.NodeProto], opset: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "M"])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, name: str) -> np.ndarray:
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run([name], {"x": X})[0])


def gemm(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="g", transB=1, **attributes)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 21])
def test_the_product_of_a_gemm_is_without_its_bias(opset: int) -> None:
    model = make_model([gemm()], opset)
    assert find_observable_inner(model, {"x", "y"}) == ["g_output"]
    append_inner(model, ["g_output"])
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run(model, "g_output"), X @ WEIGHT.T, rtol=1e-6, atol=1e-6)


def test_the_sigmoid_of_a_hardswish_is_of_its_input() -> None:
    model = make_model([helper.make_node("HardSwish", ["x"], ["y"], name="h")], 14)
    append_inner(model, find_observable_inner(model, {"x", "y"}))
    np.testing.assert_allclose(run(model, "h_output"), np.clip(X / 6 + 0.5, 0, 1), rtol=1e-6, atol=1e-7)


def test_a_product_that_is_scaled_is_bounded_alone() -> None:
    assert find_observable_inner(make_model([gemm(alpha=0.5)], 13), {"x", "y"}) == []


def test_a_name_that_some_tensor_has_is_left_to_it() -> None:
    here = [helper.make_node("Identity", ["x"], ["g_output"]), gemm()]
    assert find_observable_inner(make_model(here, 13), {"x", "y"}) == []
    value = helper.make_tensor_value_info("g_output", TensorProto.FLOAT, None)
    inside = helper.make_graph([helper.make_node("Neg", ["y"], ["g_output"])], "then", [], [value])
    on = helper.make_node("Constant", [], ["on"], value=numpy_helper.from_array(np.array(True)))
    branch = helper.make_node("If", ["on"], ["z"], then_branch=inside, else_branch=inside)
    model = make_model([gemm(), on, branch], 13)
    assert find_observable_inner(model, {"x", "y"}) == []
    append_inner(model, ["g_output"])
    assert len(model.graph.node) == 3
