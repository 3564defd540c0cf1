"""Every pattern of real graphs, in every opset and under every placement: valid, close to FP32, and by TensorRT's rules."""

import numpy as np
import onnx
import pytest

from app.errors import ModelAlreadyQuantized, ModelUnsupportedOp, QuantizeProblem
from app.quant.graph import find_activations, find_needed_tensors, prepare_model
from app.quant.opset import get_opset
from app.quant.placement import PLACEMENTS
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import measured_scales, run
from tests.quant.patterns import PATTERNS
from tests.quant.patterns.pattern import Graph, feeds
from tests.quant.patterns.weights import half_model
from tests.quant.structure import Structure

CASES = [(name, opset) for name, pattern in PATTERNS.items() for opset in pattern.opsets]
NEWEST = [(name, pattern.opsets[-1]) for name, pattern in PATTERNS.items()]


def error(wanted: np.ndarray, got: np.ndarray) -> float:
    """Return the mean distance beside the largest value."""
    return float(np.abs(got.astype(np.float64) - wanted).mean() / max(np.abs(wanted).max(), 1e-9)) if wanted.size else 0.0


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_preparing_keeps_names_and_values(name: str, opset: int) -> None:
    model = PATTERNS[name].build(opset)
    prepared = prepare_model(model)
    onnx.checker.check_model(prepared, full_check=True)
    assert get_opset(prepared) >= 13
    assert prepare_model(prepared) == prepared
    images = feeds(model)
    kept = [tensor for tensor in find_activations(prepared) if tensor in find_activations(model)]
    assert set(find_needed_tensors(model)) <= set(kept)
    tapped = [tensor for tensor in kept if tensor not in images]
    before, after = run(model, images, tapped), run(prepared, images, tapped)
    for tensor, value in before.items():
        np.testing.assert_allclose(after[tensor], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_every_placement_is_close_and_by_the_rules(name: str, opset: int) -> None:
    pattern = PATTERNS[name]
    model = pattern.build(opset)
    images = feeds(model)
    scales = measured_scales(model, images, find_needed_tensors(model))
    wanted = run(model, images)
    for placement, pairs in zip(PLACEMENTS, pattern.pairs, strict=True):
        result = quantize_model(model, scales, QuantizeSpec.model_validate({"placement": placement}))
        structure = Structure(result.model)
        structure.check()
        assert len(structure.quantized) == result.report["activations"] == pairs
        kept = {row["node"] for row in result.report["kept_float"]}
        assert {f"{tensor}_node" for tensor in pattern.floats} <= kept
        onnx.checker.check_model(result.model, full_check=True)
        got = run(result.model, images)
        assert all(error(value, got[output]) < 0.05 for output, value in wanted.items())


@pytest.mark.parametrize(("name", "opset"), NEWEST)
def test_the_rest_may_be_fp16(name: str, opset: int) -> None:
    model = PATTERNS[name].build(opset)
    images = feeds(model)
    scales = measured_scales(model, images, find_needed_tensors(model))
    result = quantize_model(model, scales, QuantizeSpec(placement="fused", float_type="fp16"))
    Structure(result.model).check()
    has_subgraphs = name in ("branches", "loop")
    assert [row["reason"] for row in result.report["kept_fp32"]] == ["it has subgraphs"] * has_subgraphs
    # The optimizer computes the steps of the bias in fp16, where they underflow; see app/engines/rules.py.
    got = run(result.model, images, is_optimized=False)
    assert all(error(value, got[output]) < 0.05 for output, value in run(model, images).items())


def test_models_in_fp16_are_refused_with_the_reason() -> None:
    with pytest.raises(QuantizeProblem, match="float16; export the model in float32"):
        quantize_model(half_model(17), {}, QuantizeSpec())


def test_weights_that_are_dequantized_are_refused() -> None:
    net = Graph(17)
    parts = [net.constant("w8", np.ones((16, 3, 3, 3)), np.int8), net.constant("s", 0.1), net.constant("z", 0, np.int8)]
    net.node("Conv", [net.input("input", "N", 3, 8, 8), net.node("DequantizeLinear", parts, "w")], "output")
    with pytest.raises(ModelAlreadyQuantized, match="DequantizeLinear"):
        prepare_model(net.model("output"))


def test_functions_are_refused_and_how_to_inline_them_is_said() -> None:
    net = Graph(17)
    net.conv(net.input("input", "N", 3, 8, 8), "output", 3, 16)
    model = net.model("output")
    body = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(onnx.helper.make_function("own", "Act", ["x"], ["y"], body, model.opset_import))
    with pytest.raises(ModelUnsupportedOp, match="inline_local_functions"):
        prepare_model(model)


def test_operators_of_other_domains_are_left_alone() -> None:
    net = Graph(17)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    net.node("Conv", ["r1", net.weight("w", 16, 16, 1, 1)], "strange", domain="com.example")
    net.conv("r1", "output", 16, 16)
    model = net.model("output", "strange")
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    result = quantize_model(model, {"input": 0.1, "r1": 0.1}, QuantizeSpec(placement="fused"))
    structure = Structure(result.model)
    assert structure.reads_int8(structure.makers["strange"]) == [False, False]
    assert structure.reads_int8(structure.makers["output"]) == [True, True, False]


def test_sizes_without_a_name_are_not_taken_for_equal() -> None:
    net = Graph(17)
    net.conv(net.input("input", "N", 3, "?", "?"), "output", 3, 16)
    prepared = prepare_model(net.model("output"))
    batch, channels, *picture = prepared.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, channels.dim_value) == ("N", 3)
    assert not any(size.HasField("dim_param") or size.HasField("dim_value") for size in picture)


def test_output_shapes_that_are_declared_wrongly_are_corrected() -> None:
    net = Graph(21)
    net.conv(net.input("input", 2, 3, 8, 8), "output", 3, 16)
    model = net.model("output", ranks=2)
    result = quantize_model(model, {"input": 0.1}, QuantizeSpec())
    assert [d.dim_value for d in result.model.graph.output[0].type.tensor_type.shape.dim] == [2, 16, 8, 8]


def test_output_shapes_that_nobody_declared_are_told() -> None:
    net = Graph(17)
    net.conv(net.input("input", "N", 3, 8, 8), "output", 3, 16)
    model = net.model("output")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    result = quantize_model(model, {"input": 0.1}, QuantizeSpec())
    batch, *sizes = result.model.graph.output[0].type.tensor_type.shape.dim
    assert (batch.HasField("dim_value"), [size.dim_value for size in sizes]) == (False, [16, 8, 8])


def test_multiply_adds_are_counted_where_the_size_is_open() -> None:
    model = PATTERNS["dynamic-picture"].build(17)
    scales = dict.fromkeys(find_needed_tensors(model), 0.1)
    report = quantize_model(model, scales, QuantizeSpec(placement="conservative")).report
    counts = {row["node"]: row["multiply_adds"] for row in (*report["quantized"], *report["kept_float"])}
    first = 320 * 320 * 16 * 3 * 9
    assert counts == {"c1_node": first, "c2_node": 160 * 160 * 16 * 16 * 9, "output_node": 320 * 320 * 16 * 32 * 9}
    assert report["multiply_adds_int8"] == pytest.approx(1 - first / sum(counts.values()))
