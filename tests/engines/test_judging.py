"""Every Q/DQ model is compared, also where ONNX Runtime's optimizer makes an invalid graph of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from app.engines.judge_run import JudgedModels, judge
from app.engines.reference import Reference
from app.engines.sensitivity import QuantizedPair, measure_sensitivity
from app.quant.graph import find_needed_tensors
from app.quant.qdq import QuantizedModel, quantize_model
from app.spec import FloatType, QuantizeSpec
from tests.quant.nets import Net, images, measured_scales
from tests.quant.patterns import PATTERNS
from tests.quant.patterns.pattern import feeds

#: A Concat between fp16 pairs, which becomes a QLinearConcat that takes no fp16.
JOINED = ["concat-branches", "cut-and-pad", "shifted-windows"]
#: From opset 21 on, with x64quantprecision, a Reshape or the like between a DequantizeLinear and a float node.
MOVED = ["cut-and-pad", "split-gate", "modern-attention"]


def saved(folder: Path, name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    pattern = PATTERNS[name]
    model = pattern.build(next((opset for opset in pattern.opsets if opset >= 21), pattern.opsets[-1]))
    onnx.save(model, folder / "model.onnx")
    return model, next(iter(feeds(model).values()))


def quantized(model: onnx.ModelProto, float_type: FloatType) -> QuantizedModel:
    scales = measured_scales(model, feeds(model), find_needed_tensors(model))
    return quantize_model(model, scales, QuantizeSpec(placement="fused", float_type=float_type))


@pytest.mark.parametrize("name", JOINED)
def test_a_model_in_fp16_is_judged(tmp_path: Path, name: str) -> None:
    model, batch = saved(tmp_path, name)
    onnx.save(quantized(model, "fp16").model, tmp_path / "tested.onnx")
    models = JudgedModels(tmp_path / "model.onnx", tmp_path / "tested.onnx")
    report = judge(models, [(batch, [None] * len(batch))], lambda _event: None)
    assert min(output["sqnr_db"] for output in report["outputs"].values()) > 20


@pytest.mark.parametrize("name", MOVED)
def test_every_group_is_measured_in_new_opsets(tmp_path: Path, name: str) -> None:
    model, batch = saved(tmp_path, name)
    reference = Reference(tmp_path, 1)
    reference.add_all(tmp_path / "model.onnx", [(batch, [None] * len(batch))])
    made = quantized(model, "fp32")
    found = measure_sensitivity(QuantizedPair(made.model, made.float_model, made.given), reference, lambda _event: None)
    assert found["groups"]
    assert all(0 <= group["only_int8"]["loss"] < 0.1 for group in found["groups"])


def test_shares_of_a_model_with_open_sizes_are_those_of_its_report(tmp_path: Path) -> None:
    model, batch = saved(tmp_path, "dynamic-picture")
    reference = Reference(tmp_path, 1)
    reference.add_all(tmp_path / "model.onnx", [(batch, [None] * len(batch))])
    made = quantized(model, "fp32")
    found = measure_sensitivity(QuantizedPair(made.model, made.float_model, made.given), reference, lambda _event: None)
    counts = {row["node"]: row["multiply_adds"] for row in made.report["quantized"]}
    assert {group["node"]: group["multiply_adds"] for group in found["groups"]} == counts
    assert sum(group["share"] for group in found["groups"]) == pytest.approx(1.0)


def test_nodes_whose_size_nobody_knows_are_not_free(tmp_path: Path) -> None:
    net = Net([2, 3, 8, 8])
    net.node("Relu", [net.conv("input", "c1", 3, 16)], "r1")
    nothing = net.node("Mul", [net.node("ReduceMax", ["r1"], "most", keepdims=0), net.constant("zero", 0.0)], "nothing")
    whole = net.node("Cast", [nothing], "whole", to=onnx.TensorProto.INT64)
    net.node("Add", [whole, net.constant("sizes", [2, 16, 8, 8], np.int64)], "computed")
    net.conv(net.conv(net.node("Resize", ["r1", "", "", "computed"], "up"), "c2", 16, 16), "output", 16, 16)
    model = net.model({"output": [2, 16, "H", "W"]})
    onnx.save(model, tmp_path / "model.onnx")
    batch = images(model)
    reference = Reference(tmp_path, 1)
    reference.add_all(tmp_path / "model.onnx", [(batch, [None] * len(batch))])
    made = quantize_model(model, measured_scales(model, batch, find_needed_tensors(model)), QuantizeSpec())
    found = measure_sensitivity(QuantizedPair(made.model, made.float_model, made.given), reference, lambda _event: None)
    shares = {group["node"]: group["share"] for group in found["groups"]}
    assert shares == {"c1_node": pytest.approx(1 / 3), "c2_node": pytest.approx(1 / 3), "output_node": pytest.approx(1 / 3)}
