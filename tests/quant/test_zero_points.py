"""Zero points: all steps on values that occur, zero exact, nearer to float than without; what cannot be negative is not."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from app.quant.graph import find_activations, find_needed_tensors, prepare_model
from app.quant.int8_nodes import find_int8_nodes
from app.quant.placement import PLACEMENTS
from app.quant.qdq import QuantizedModel, quantize_model
from app.quant.table import Extremes
from app.quant.zero_points import Steps, asymmetric, find_never_negative
from app.spec import QuantizeSpec
from tests.quant.nets import NETS, images, measured_scales, run
from tests.quant.patterns import PATTERNS
from tests.quant.patterns.pattern import Graph, feeds
from tests.quant.samples import digits_images, digits_model

NEWEST = [(name, pattern.opsets[-1]) for name, pattern in PATTERNS.items()]
FINITE = st.floats(-1000, 1000, width=32)


def quantized(model: onnx.ModelProto, batch: np.ndarray, extremes: Extremes | None, **options: object) -> QuantizedModel:
    scales = measured_scales(model, batch, find_needed_tensors(model))
    return quantize_model(model, scales, QuantizeSpec.model_validate(options), extremes=extremes)


def extremes_of(model: onnx.ModelProto, batch: np.ndarray) -> dict[str, tuple[float, float]]:
    needed = find_needed_tensors(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in constants)
    values = run(model, batch, [tensor for tensor in needed if tensor != name]) | {name: batch}
    return {tensor: (float(values[tensor].min()), float(values[tensor].max())) for tensor in needed}


@pytest.mark.parametrize(("name", "opset"), NEWEST)
def test_what_is_said_never_to_be_negative_is_not(name: str, opset: int) -> None:
    model = prepare_model(PATTERNS[name].build(opset))
    found = find_never_negative(model.graph)
    tapped = [tensor for tensor in find_activations(model) if tensor in found]
    for seed in range(3):
        inputs = {n: np.asarray(v + np.float32(seed - 1), v.dtype) for n, v in feeds(model).items()}
        for tensor, value in run(model, inputs, tapped).items():
            assert tensor not in tapped or not value.size or value.min() >= 0, tensor


def test_the_rules_of_operators() -> None:
    graph = Graph(17)
    graph.input("input", "N", 8, 8, 8)
    minus = graph.constant("minus", -1)
    kept = [
        graph.node("Relu", ["input"], "relu"),
        graph.clip("input", "clip", 0, 6),
        graph.node("MaxPool", ["relu"], "pool", kernel_shape=[2, 2]),
        graph.node("Add", ["relu", "clip"], "sum"),
        graph.node("Concat", ["relu", "sum"], "joined", axis=1),
        graph.node("HardSwish", ["sum"], "swish"),
    ]
    lost = [
        graph.clip("input", "below", -1, 6),
        graph.node("Add", ["relu", "input"], "mixed"),
        graph.node("Sub", ["relu", "clip"], "difference"),
        graph.node("Concat", ["relu", "input"], "both", axis=1),
        graph.node("Mul", ["relu", minus], "turned"),
        graph.node("Clip", ["relu", "", minus], "capped"),
        graph.node("Clip", ["input", graph.constant("zero", 0), minus], "crossed"),
    ]
    found = find_never_negative(graph.model(*kept, *lost).graph)
    assert [name in found for name in kept] == [True] * len(kept)
    assert [name in found for name in lost] == [False] * len(lost)


@given(st.lists(FINITE, min_size=2, max_size=2).map(sorted), st.floats(2.0**-20, 2000))
def test_steps_reach_over_what_occurs_and_zero_is_exact(pair: list[float], amax: float) -> None:
    scale = np.float32(amax / 127)
    steps = asymmetric(onnx.GraphProto(), {"t": scale}, {"t": (pair[0], pair[1])}, [])["t"]
    least, most = (-128 - steps.zero_point) * float(steps.scale), (127 - steps.zero_point) * float(steps.scale)
    assert -128 <= steps.zero_point <= 127
    assert 0 < steps.scale <= scale
    # half a step is lost where the zero point is rounded
    half = float(steps.scale) / 2 * 1.001
    assert least <= max(min(pair[0], 0.0), -127 * float(scale)) + half
    assert most >= min(max(pair[1], 0.0), 127 * float(scale)) - half


def test_steps_are_never_denormal() -> None:
    least = np.finfo(np.float32).tiny
    for scale in (least, np.float32(1.5 * least)):
        assert asymmetric(onnx.GraphProto(), {"t": scale}, {"t": (0.0, 1.0)}, [])["t"] == Steps(scale)


def test_a_group_has_one_range() -> None:
    scales = dict.fromkeys("abc", np.float32(1))
    found = asymmetric(onnx.GraphProto(), scales, {"a": (0, 9), "b": (-3, 5), "c": (0, 5)}, [["a", "b"]])
    assert found["a"] == found["b"] == Steps(np.float32(12 / 255), -64)
    assert found["c"] == Steps(np.float32(5 / 255), -128)


def test_of_what_nothing_is_known_the_scale_stays() -> None:
    graph = Graph(17)
    graph.input("input", "N", 8, 8, 8)
    model = graph.model(graph.node("Relu", ["input"], "relu"))
    scales: dict[str, np.float32] = {"input": np.float32(1), "relu": np.float32(1)}
    found = asymmetric(model.graph, scales, {}, [])
    assert found == {"input": Steps(np.float32(1)), "relu": Steps(np.float32(127 / 255), -128)}
    together = asymmetric(model.graph, scales, {}, [["input", "relu"]])
    assert set(together.values()) == {Steps(np.float32(1))}


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_no_net_loses_beyond_chance(name: str, placement: str) -> None:
    model = NETS[name]()
    batch = images(model)
    plain = quantized(model, batch, None, placement=placement)
    better = quantized(model, batch, extremes_of(model, batch), placement=placement, asymmetric=True)
    onnx.checker.check_model(better.model, full_check=True)
    points = {a.zero_point for node in find_int8_nodes(better.model.graph) for a in node.activations}
    assert points - {0}
    assert {a.zero_point for node in find_int8_nodes(plain.model.graph) for a in node.activations} == {0}
    for output, wanted in run(model, batch).items():
        assert _loss(wanted, better.model, batch, output) < 1.2 * _loss(wanted, plain.model, batch, output)


def test_digits_come_nearer_to_float() -> None:
    model, (batch, _) = digits_model(), digits_images()
    found = [quantized(model, batch, extremes_of(model, batch), asymmetric=points).model for points in (True, False)]
    better, plain = (_loss(run(model, batch)["output"], each, batch, "output") for each in found)
    assert better < plain / 3


@pytest.mark.parametrize(("name", "opset"), NEWEST)
def test_onnxruntime_runs_every_pattern(name: str, opset: int) -> None:
    model = PATTERNS[name].build(opset)
    scales = measured_scales(model, feeds(model), find_needed_tensors(model))
    result = quantize_model(model, scales, QuantizeSpec(placement="fused", asymmetric=True))
    onnx.checker.check_model(result.model, full_check=True)
    wanted, got = run(model, feeds(model)), run(result.model, feeds(model))
    for output, value in wanted.items():
        assert not value.size or np.abs(got[output] - value).mean() < 0.05 * max(np.abs(value).max(), 1e-9)


def test_an_input_of_pixels_is_exact() -> None:
    model = NETS["resnet"]()
    (value,) = model.graph.input
    steps = asymmetric(model.graph, {value.name: np.float32(1 / 127)}, {value.name: (0.0, 1.0)}, [])[value.name]
    pixels = np.arange(256, dtype=np.float32) / 255
    stored = np.rint(pixels / steps.scale) + steps.zero_point
    np.testing.assert_array_equal((stored - steps.zero_point) * steps.scale, np.arange(256, dtype=np.float32) * steps.scale)
    assert (stored.min(), stored.max()) == (-128, 127)


def test_weights_stay_around_zero() -> None:
    model = NETS["resnet"]()
    batch = images(model)
    written = quantized(model, batch, extremes_of(model, batch), asymmetric=True).model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.initializer}
    weights = [node for node in written.node if node.op_type == "DequantizeLinear" and node.input[0] in arrays]
    assert weights
    assert all(not arrays[node.input[2]].any() for node in weights)


def _loss(wanted: np.ndarray, model: onnx.ModelProto, batch: np.ndarray, output: str) -> float:
    return float(np.mean((run(model, batch)[output].astype(np.float64) - wanted) ** 2))
