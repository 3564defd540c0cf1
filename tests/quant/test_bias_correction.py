"""The expected error: what is counted, and where it is put."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.quant.bias_correction import ErrorSum, add_to_biases

FREE = (-np.inf, np.inf)


def test_the_mean_is_of_each_channel() -> None:
    wanted = np.arange(64, dtype=np.float32).reshape(2, 2, 4, 4)
    errors = ErrorSum("Conv", FREE)
    errors.add(wanted, wanted - np.array([1.0, -3.0], np.float32).reshape(1, 2, 1, 1))
    assert errors.mean() == pytest.approx([1.0, -3.0])


def test_what_a_relu_cuts_off_does_not_count() -> None:
    wanted = np.concatenate([np.full((90, 1), -5.0), np.full((20, 1), 2.0)])
    found = np.concatenate([np.full((90, 1), -6.0), np.full((20, 1), 1.5)])
    assert mean_error((0.0, np.inf), wanted, found) == pytest.approx(0.5)
    assert mean_error(FREE, wanted, found) == pytest.approx(100 / 110)


def mean_error(window: tuple[float, float], wanted: np.ndarray, found: np.ndarray) -> float:
    errors = ErrorSum("Gemm", window)
    errors.add(wanted, found)
    return float(errors.mean()[0])


def test_few_positions_tell_nothing() -> None:
    errors = ErrorSum("Gemm", FREE)
    errors.add(np.ones((15, 3)), np.zeros((15, 3)))
    assert np.array_equal(errors.mean(), np.zeros(3))


def test_biases_are_written_anew_for_each_node() -> None:
    shared = numpy_helper.from_array(np.ones(2, np.float32), "bias")
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["first"]),
        helper.make_node("Conv", ["first", "w", "bias"], ["second"]),
        helper.make_node("Conv", ["second", "w"], ["third"]),
        helper.make_node("MatMul", ["third", "m"], ["fourth"], name="product"),
        helper.make_node("Conv", ["fourth", "w", "third"], ["fifth"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "fifth")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [shared])
    corrections = {name: np.array([0.5, -1.0]) for name in ("first", "third", "fourth", "fifth")}
    refused = add_to_biases(graph, corrections)
    assert list(refused) == ["fifth"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = {node.output[0]: list(node.input) for node in graph.node}
    assert stored[inputs["first"][2]].tolist() == [1.5, 0.0]
    assert inputs["second"][2] == "bias"
    assert stored[inputs["third"][2]].tolist() == [0.5, -1.0]
    assert stored[inputs["fourth"][1]].tolist() == [0.5, -1.0]  # an Add behind the product, under its name
    assert [node.op_type for node in graph.node] == ["Conv", "Conv", "Conv", "MatMul", "Add", "Conv"]
