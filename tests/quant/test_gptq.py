"""Rounding with the inputs in mind, and the columns that it is told of."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.quant.gptq import round_weights
from app.quant.gram import Columns, GramSum, find_columns


def correlated(groups: int, length: int, positions: int) -> np.ndarray:
    generator = np.random.default_rng(5)
    mixed = generator.random((groups, length, length)) @ generator.standard_normal((groups, length, positions))
    return (mixed + 3).astype(np.float32)


def output_error(weight: np.ndarray, scales: np.ndarray, rounded: np.ndarray, columns: np.ndarray) -> float:
    return float((((weight - scales * rounded) @ columns) ** 2).sum())


@pytest.mark.parametrize(("groups", "outputs", "length"), [(1, 16, 200), (8, 1, 9)])
def test_outputs_move_less_than_with_the_nearest(groups: int, outputs: int, length: int) -> None:
    columns = correlated(groups, length, 4 * length)
    weight = np.random.default_rng(6).standard_normal((groups, outputs, length))
    scales = np.abs(weight).max(axis=2, keepdims=True) / 127
    rounded = round_weights(weight, scales, columns @ columns.transpose(0, 2, 1).astype(np.float64))
    assert rounded.dtype == np.int8
    nearest = np.rint(weight / scales)
    assert output_error(weight, scales, rounded, columns) < 0.3 * output_error(weight, scales, nearest, columns)
    assert np.abs(weight - scales * rounded).max() < 8 * scales.max()


def test_independent_inputs_and_dead_ones_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(7).standard_normal((2, 3, 20))
    scales = np.full((2, 3, 1), 0.02)
    nearest = np.clip(np.rint(weight / scales), -127, 127)
    for gram in (np.broadcast_to(np.eye(20), (2, 20, 20)), np.zeros((2, 20, 20))):
        assert np.array_equal(round_weights(weight, scales, np.array(gram)), nearest)


CONVOLUTIONS = [
    ((8, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ((8, 1, 3, 3), {"group": 8, "dilations": [2, 2]}),
    ((6, 2, 5), {"group": 3, "pads": [2, 2]}),
]


@pytest.mark.parametrize(("shape", "attributes"), CONVOLUTIONS)
def test_rows_times_columns_is_the_convolution(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    generator = np.random.default_rng(8)
    weight = generator.standard_normal(shape).astype(np.float32)
    channels = shape[1] * attributes.get("group", 1)
    image = generator.standard_normal((1, channels, *[11, 10][: len(shape) - 2])).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    columns = find_columns(node, weight, 1)
    assert columns is not None
    product = columns.rows(weight) @ columns.of_batch(image)
    assert np.allclose(product.reshape(shape[0], -1), run(node, weight, image)[0].reshape(shape[0], -1), atol=1e-4)
    assert np.array_equal(columns.weight(columns.rows(weight)), weight)


@pytest.mark.parametrize(("op", "attributes"), [("Gemm", {"transB": 1}), ("Gemm", {}), ("MatMul", {})])
def test_rows_times_columns_is_the_product(op: str, attributes: dict[str, Any]) -> None:
    generator = np.random.default_rng(9)
    weight = generator.standard_normal((7, 5) if attributes else (5, 7)).astype(np.float32)
    rows = generator.standard_normal((4, 5)).astype(np.float32)
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    columns = find_columns(node, weight, 1)
    assert columns is not None
    assert np.allclose((columns.rows(weight) @ columns.of_batch(rows))[0].T, run(node, weight, rows), atol=1e-5)


def test_what_is_not_told_apart() -> None:
    weight = np.ones((4, 4, 3, 3), np.float32)
    assert find_columns(helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), weight, 1) is None
    assert find_columns(helper.make_node("ConvTranspose", ["x", "w"], ["y"]), weight, 1) is None
    assert find_columns(helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), weight[0, 0], 1) is None
    assert find_columns(helper.make_node("MatMul", ["w", "x"], ["y"]), weight[0, 0], 0) is None


def test_gram_matrix_is_the_sum_of_all_batches() -> None:
    generator = np.random.default_rng(10)
    columns = Columns(helper.make_node("MatMul", ["x", "w"], ["y"]), (6, 2))
    batches = [generator.standard_normal((3, 5, 6)).astype(np.float32) for _ in range(4)]
    total = GramSum()
    for batch in batches:
        total.add(columns.of_batch(batch))
    flat = np.concatenate(batches).reshape(-1, 6)
    assert np.allclose(total.matrix()[0], flat.T @ flat, rtol=1e-5)


def run(node: onnx.NodeProto, weight: np.ndarray, given: np.ndarray) -> np.ndarray:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "one", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": given})[0])
