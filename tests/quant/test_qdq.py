"""Q/DQ pairs stand where TensorRT wants them, and the numbers hold."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from app.errors import QuantizeProblem, SpecProblem, TableIncomplete, TableScaleInvalid, UnsupportedOption
from app.quant.graph import find_needed_tensors
from app.quant.placement import PLACEMENTS
from app.quant.qdq import QuantizedModel, model_to_bytes, quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import NETS, Net, images, measured_scales, resnet, run
from tests.quant.samples import digits_images, digits_model, efficientnet_model, parse_oracle, photos
from tests.quant.structure import Structure


def quantized(model: onnx.ModelProto, **options: object) -> QuantizedModel:
    scales = measured_scales(model, images(model, 8), find_needed_tensors(model))
    return quantize_model(model, scales, QuantizeSpec.model_validate(options))


def quantized_tensors(model: onnx.ModelProto) -> list[str]:
    return [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]


def readers(model: onnx.ModelProto, op: str) -> dict[str, list[bool]]:
    """Of each node of kind op: which of its inputs come from a DequantizeLinear."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {n.output[0]: [name in dequantized for name in n.input] for n in model.graph.node if n.op_type == op}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NETS)
def test_quantized_nets_are_valid_close_and_the_same_every_time(name: str, placement: str) -> None:
    model = NETS[name]()
    result = quantized(model, placement=placement)
    onnx.checker.check_model(result.model, full_check=True)
    assert model_to_bytes(quantized(model, placement=placement).model) == model_to_bytes(result.model)
    batch = images(model, 8)
    for output, value in run(model, batch).items():
        error = np.abs(run(result.model, batch)[output] - value).mean()
        assert error < 0.05 * np.abs(value).max()


@pytest.mark.parametrize("name", NETS)
def test_one_symmetric_pair_for_each_tensor_and_int8_weights(name: str) -> None:
    model = quantized(NETS[name](), placement="fused").model
    tensors = quantized_tensors(model)
    assert len(tensors) == len(set(tensors))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
            assert (constants[node.input[1]] > 0).all()
    weights = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert weights
    assert all(constants[name].dtype == np.int8 for name in weights)


@pytest.mark.parametrize("name", NETS)
def test_needed_tensors_are_just_what_the_placements_quantize(name: str) -> None:
    model = NETS[name]()
    used = {tensor for p in PLACEMENTS for tensor in quantized_tensors(quantized(model, placement=p).model)}
    assert used == set(find_needed_tensors(model))


def test_residual_adds_read_int8_on_the_shortcut_only() -> None:
    model = quantized(resnet()).model
    adds = readers(model, "Add")
    assert adds == {"a_sum": [False, True], "b_sum": [False, True]}
    assert readers(quantized(resnet(), placement="conservative").model, "Add") == {add: [False, False] for add in adds}


def test_bias_stays_float_and_weights_have_a_scale_per_output_channel() -> None:
    model = quantized(resnet()).model
    assert readers(model, "Conv")["b1"] == [True, True, False]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert constants["b1.weight_scale"].shape == (32,)
    assert constants["fc.weight_scale"].shape == (10,)
    assert constants["b1.bias"].dtype == np.float32


def test_concat_and_pooling_share_one_scale_when_fused() -> None:
    model = quantized(NETS["concat"](), placement="fused").model
    scales = {
        t.name: float(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name.endswith("_scale") and not t.dims
    }
    assert scales["max_scale"] == scales["mean_scale"] == scales["joined_scale"] == scales["trunk_scale"]
    assert readers(model, "Concat") == {"joined": [True, True]}
    assert readers(quantized(NETS["concat"]()).model, "Concat") == {"joined": [False, False]}


def test_attention_products_are_int8_by_default_and_float_when_conservative() -> None:
    assert readers(quantized(NETS["attention"]()).model, "MatMul")["scores"] == [True, True]
    conservative = quantized(NETS["attention"](), placement="conservative").model
    assert readers(conservative, "MatMul")["scores"] == [False, False]
    assert readers(conservative, "MatMul")["projected"] == [True, True]


def test_narrow_convolutions_and_vector_products_stay_float() -> None:
    result = quantized(NETS["mobile"]())
    reasons = {row["node"]: row["reason"] for row in result.report["kept_float"]}
    assert set(reasons) == {"reduce_node", "expand_node"}
    assert all("gate" in reason for reason in reasons.values())
    net = Net([1, 16, 8, 8])
    net.node("Flatten", [net.conv("input", "c", 16, 16)], "flat")
    net.node("Gemm", ["flat", net.weight("fc", 1024, 10)], "output")
    (row,) = quantized(net.model({"output": [1, 10]})).report["kept_float"]
    assert "vector" in row["reason"]


def test_a_shared_weight_is_quantized_alike_for_each_reader() -> None:
    model = quantized(NETS["hidden-weights"]()).model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    first, second = (constants[sources[node.input[1]]] for node in model.graph.node if node.op_type == "Conv")
    np.testing.assert_array_equal(first, second)
    assert "shared" not in constants


@pytest.mark.parametrize("entry", ["b1_node", "b1", "b1*", "b[1]_node"])
def test_excluded_nodes_stay_float(entry: str) -> None:
    result = quantized(resnet(), exclude=[entry])
    assert readers(result.model, "Conv")["b1"] == [False, False, False]
    assert {row["node"]: row["reason"] for row in result.report["kept_float"]} == {"b1_node": f"excluded by {entry}"}


def test_a_folded_batchnorm_may_be_named() -> None:
    result = quantized(resnet(), exclude=["a1_bn_node", "a1_node"])
    assert [row["node"] for row in result.report["kept_float"]] == ["a1_node"]


def test_a_convolution_may_be_named_by_the_output_that_a_fold_took_away() -> None:
    result = quantized(resnet(), exclude=["a1"])
    assert {row["node"]: row["reason"] for row in result.report["kept_float"]} == {"a1_node": "excluded by a1"}


def test_unknown_excludes_are_named() -> None:
    with pytest.raises(SpecProblem, match=r"no\*thing, nonsense"):
        quantized(resnet(), exclude=["a1_node", "nonsense", "no*thing"])


def test_missing_and_bad_scales_are_named() -> None:
    model = resnet()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    with pytest.raises(TableIncomplete, match="a1_relu"):
        quantize_model(model, {n: s for n, s in scales.items() if n != "a1_relu"}, QuantizeSpec())
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(TableScaleInvalid, match="a1_relu"):
            quantize_model(model, scales | {"a1_relu": bad}, QuantizeSpec())


def test_nodes_that_read_a_dead_tensor_stay_float() -> None:
    model = resnet()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    del scales["a1_relu"]
    report = quantize_model(model, scales, QuantizeSpec(), dead=["a1_relu"]).report
    assert {row["node"]: row["reason"] for row in report["kept_float"]} == {"a2_node": "a1_relu was zero on every image"}


def test_what_cannot_be_done_is_refused() -> None:
    for option in ({"placement": "measured"}, {"bias_correction": True}):
        with pytest.raises(UnsupportedOption):
            quantize_model(resnet(), {}, QuantizeSpec.model_validate(option))
    net = Net(["N", 16])
    net.node("Relu", ["input"], "output")
    with pytest.raises(QuantizeProblem, match="nothing in it"):
        quantize_model(net.model({"output": ["N", 16]}), {}, QuantizeSpec())


def test_nonfinite_weights_are_named() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Conv", ["input", net.constant("sick", np.full((16, 16, 1, 1), np.nan))], "output")
    with pytest.raises(QuantizeProblem, match="sick"):
        quantize_model(net.model({"output": ["N", 16, 8, 8]}), {"input": 0.1}, QuantizeSpec())


@pytest.mark.parametrize(("method", "low", "high"), [("minmax", 0.967, 0.977), ("entropy2", 0.61, 0.64)])
@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
def test_digits_reach_the_accuracy_of_tensorrts_own_tables(method: str, low: float, high: float, float_type: str) -> None:
    model = digits_model()
    result = quantize_model(model, parse_oracle(method), QuantizeSpec.model_validate({"float_type": float_type}))
    pictures, labels = digits_images()
    # ONNX Runtime's optimizer rounds the steps of an int32 bias to fp16, where they underflow.
    outputs = run_plain(result.model, pictures) if float_type == "fp16" else run(result.model, pictures)["output"]
    assert low <= (outputs.argmax(axis=1) == labels).mean() <= high
    assert len(model_to_bytes(result.model)) < 0.45 * len(model_to_bytes(model))


def run_plain(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model_to_bytes(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": batch})[0])


def test_efficientnet_agrees_with_fp32_on_photos_kept_back() -> None:
    model = efficientnet_model()
    scales = measured_scales(model, photos(0, 16), find_needed_tensors(model))
    result = quantize_model(model, scales, QuantizeSpec())
    seen = photos(100, 32)
    agreed = run(model, seen)["output"].argmax(1) == run(result.model, seen)["output"].argmax(1)
    assert agreed.mean() >= 0.8
    assert result.report["multiply_adds_int8"] == 1.0
    assert result.report["activations"] == 50
    assert len(model_to_bytes(result.model)) < 0.28 * len(model_to_bytes(model))


@pytest.mark.parametrize(
    ("placement", "pairs", "share"), [("conservative", 49, 0.97), ("default", 50, 1.0), ("fused", 51, 1.0)]
)
def test_efficientnet_is_quantized_by_the_rules(placement: str, pairs: int, share: float) -> None:
    model = efficientnet_model()
    scales = dict.fromkeys(find_needed_tensors(model), 0.1)
    result = quantize_model(model, scales, QuantizeSpec.model_validate({"placement": placement}))
    structure = Structure(result.model)
    structure.check()
    assert len(structure.quantized) == pairs
    assert result.report["multiply_adds_int8"] == pytest.approx(0.97 if placement == "conservative" else 1.0, abs=0.01)
    shortcuts = [structure.reads_int8(node) for node in structure.nodes if node.op_type == "Add"]
    assert len(shortcuts) == 9
    assert all(sum(is_int8) == (placement != "conservative") for is_int8 in shortcuts)


def test_a_bias_far_above_its_weights_survives_int32() -> None:
    net = Net(["N", 16, 8, 8])
    weight = np.full((16, 16, 1, 1), 0.1, np.float32)
    weight[3] = 1e-12
    net.node("Conv", ["input", net.constant("w", weight), net.constant("b", np.full(16, 5.0))], "c")
    net.node("Conv", ["c", net.weight("w2", 16, 16, 1, 1)], "output")
    model = net.model({"output": ["N", 16, 8, 8]})
    batch = images(model)
    result = quantized(model).model
    taps = run(result, batch, ["c_quantized", "c"])
    expected = run(model, batch, ["c"])["c"]
    assert np.abs(expected[:, 3] - 5.0).max() < 1e-3
    step = np.abs(expected).max() / 127
    np.testing.assert_allclose(taps["c"][:, 3], 5.0, atol=step)
