"""Reports and `exclude` speak the names of the model that was uploaded, whatever preparing it and a placement made of it."""

from typing import Any

import numpy as np
import onnx
import pytest

from app.quant.bypass import group_names
from app.quant.graph import find_needed_tensors
from app.quant.placement import PLACEMENTS
from app.quant.qdq import QuantizedModel, quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import Net
from tests.quant.patterns import PATTERNS

CASES = sorted({(name, opset) for name, pattern in PATTERNS.items() for opset in (pattern.opsets[0], pattern.opsets[-1])})


def quantized(model: onnx.ModelProto, **options: Any) -> QuantizedModel:
    scales = dict.fromkeys(find_needed_tensors(model), 0.1)
    return quantize_model(model, scales, QuantizeSpec.model_validate(options))


def groups(result: QuantizedModel) -> set[str]:
    return {result.given.get(name, name) for name in group_names(result.float_model, result.model)}


@pytest.mark.parametrize("equalize", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("name", "opset"), CASES)
def test_reports_name_nodes_and_weights_of_the_model_given(name: str, opset: int, placement: str, equalize: bool) -> None:
    model = PATTERNS[name].build(opset)
    report = quantized(model, placement=placement, equalize=equalize).report
    nodes = {node.name for node in model.graph.node}
    tensors = {name for node in model.graph.node for name in node.input}
    assert {row["node"] for row in (*report["quantized"], *report["kept_float"], *report["channels"])} <= nodes
    assert {row["weight"] for row in report["channels"]} <= tensors


@pytest.mark.parametrize("name", ["conv-clip", "dense-head", "fixed-batch", "nhwc", "nhwc-outside", "separable"])
def test_what_one_placement_names_every_placement_leaves_in_float(name: str) -> None:
    model = PATTERNS[name].build(PATTERNS[name].opsets[-1])
    named = groups(quantized(model, placement="fused"))
    assert named <= {output for node in model.graph.node for output in node.output}
    for output in named:
        for placement in PLACEMENTS:
            others = groups(quantized(model, placement=placement)) - {output}
            if others:  # else nothing would be INT8, which is refused
                assert groups(quantized(model, placement=placement, exclude=[output])) <= others


def head(product: str, second: str) -> onnx.ModelProto:
    """A MatMul with a bias behind a pooled convolution; the names are those of the convolution's and the product's node."""
    net = Net(["N", 3, 8, 8])
    net.conv(net.node("Relu", [net.conv("input", "c1", 3, 16)], "r1"), "c2", 16, 16)
    net.node("Flatten", [net.node("GlobalAveragePool", ["c2"], "pool")], "flat")
    net.node("Add", [net.node("MatMul", ["flat", net.weight("w", 16, 5)], "m"), net.weight("b", 5)], "output")
    model = net.model({"output": ["N", 5]})
    for node in model.graph.node:
        node.name = {"c2": second, "m": product}.get(node.output[0], node.name)
    return model


@pytest.mark.parametrize(("product", "second"), [("fc", "conv"), ("", ""), ("op", "op")])
def test_nodes_without_names_and_with_one_name_are_told_apart_by_their_outputs(product: str, second: str) -> None:
    model = head(product, second)
    for placement in PLACEMENTS:
        whole, without = quantized(model, placement=placement), quantized(model, placement=placement, exclude=["m"])
        assert (groups(whole) - groups(without)) - {"pool", "flat"} == {"m"}  # these lead to nothing in INT8 then
        assert {row["node"] for row in whole.report["channels"]} >= {product or "m", second or "c2"}


@pytest.mark.parametrize("entry", ["up", "up_node"])
def test_a_node_that_a_newer_opset_writes_otherwise_is_excluded_by_its_old_name(entry: str) -> None:
    model = PATTERNS["dynamic-picture"].build(9)
    assert "up" in groups(quantized(model, placement="fused"))
    assert "up" not in groups(quantized(model, placement="fused", exclude=[entry]))


def test_a_name_that_nodes_share_means_all_of_them() -> None:
    assert not groups(quantized(head("op", "op"))) & groups(quantized(head("op", "op"), exclude=["op"])) & {"m", "c2"}


def test_the_name_of_a_sum_behind_a_product_does_not_mean_the_product() -> None:
    model = head("fc", "conv")
    for placement in PLACEMENTS:
        assert "m" in groups(quantized(model, placement=placement, exclude=["output"]))


def test_constants_that_are_computed_are_no_labyrinth() -> None:
    net = Net(["N", 3, 8, 8])
    net.conv("input", "c1", 3, 16)
    net.node("Flatten", [net.node("GlobalAveragePool", ["c1"], "pool")], "flat")
    doubled = net.constant("k0", np.full(5, 1e-9, np.float32), np.float32)
    for number in range(60):  # each reads the one before twice: 2^60 ways up
        doubled = net.node("Add", [doubled, doubled], f"k{number + 1}")
    net.node("Add", [net.node("MatMul", ["flat", net.weight("w", 16, 5)], "m"), doubled], "output")
    report = quantized(net.model({"output": ["N", 5]}), placement="fused").report
    assert [row["node"] for row in report["quantized"]] == ["c1_node", "pool_node", "m_node"]
