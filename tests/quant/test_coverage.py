"""Names of a table in a model: also where the model has subgraphs, custom operators, or nothing to quantize."""

import onnx
from onnx import TensorProto, helper

from app.quant.coverage import match_names
from app.quant.neighbours import fill_from_neighbours
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import Net


def branching() -> onnx.ModelProto:
    """A convolution, an If whose branches read it, and a convolution behind."""
    net = Net(["N", 16, 8, 8])
    net.conv("input", "outer", 16, 16)
    total = net.node("ReduceMax", ["outer"], "largest", keepdims=0)
    net.node("Greater", [total, net.constant("limit", 1.0)], "is_large")
    branches = []
    for name in ("then", "else"):
        inside = [helper.make_node("Relu" if name == "then" else "Neg", ["outer"], [f"{name}_inner"], name=f"{name}_node")]
        value = helper.make_tensor_value_info(f"{name}_inner", TensorProto.FLOAT, ["N", 16, 8, 8])
        branches.append(helper.make_graph(inside, name, [], [value]))
    net.node("If", ["is_large"], "chosen", then_branch=branches[0], else_branch=branches[1])
    net.conv("chosen", "output", 16, 16)
    return net.model({"output": ["N", 16, 8, 8]})


def test_tensors_inside_subgraphs_are_unknown_and_never_quantized() -> None:
    model = branching()
    found = match_names(model, dict.fromkeys(["input", "outer", "chosen", "then_inner"], 1.0))
    assert (found.matched, found.unknown) == (["input", "outer", "chosen"], ["then_inner"])
    assert set(found.needed) == {"input", "chosen"}
    quantized = quantize_model(model, {"input": 0.1, "chosen": 0.1}, QuantizeSpec()).model
    (choice,) = (node for node in quantized.graph.node if node.op_type == "If")
    assert all(node.op_type in ("Relu", "Neg") for attribute in choice.attribute for node in attribute.g.node)


def test_nothing_follows_through_a_custom_operator() -> None:
    net = Net(["N", 16, 8, 8])
    net.nodes.append(helper.make_node("Relu", ["input"], ["strange"], name="strange_node", domain="acme"))
    net.node("Relu", ["strange"], "output")
    model = net.model({"output": ["N", 16, 8, 8]})
    model.opset_import.append(helper.make_opsetid("acme", 1))
    assert fill_from_neighbours(model, {"input": 1.0}, ["strange", "output"]) == {}
    assert fill_from_neighbours(model, {"strange": 1.0}, ["input", "output"]).keys() == {"output"}


def test_a_model_without_anything_to_quantize_needs_nothing() -> None:
    net = Net(["N", 4])
    net.node("Relu", ["input"], "output")
    found = match_names(net.model({"output": ["N", 4]}), {"input": 1.0, "nobody": 1.0})
    assert (found.needed, found.missing, found.covered, found.unknown) == ((), [], 0, ["nobody"])


def test_constants_computed_from_constants_are_constants() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Reshape", [net.constant("bias", [0.5] * 16), net.constant("sizes", [1, 16, 1, 1], "int64")], "spread")
    net.node("Add", ["input", "spread"], "sum")
    net.conv("sum", "output", 16, 16)
    found = match_names(net.model({"output": ["N", 16, 8, 8]}), dict.fromkeys(["sum", "spread", "bias_output"], 1.0))
    assert found.constants == ["spread", "bias_output"]


def test_zeros_are_told_by_what_they_are_of_and_cover_nothing() -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Relu", [net.conv("input", "first", 16, 16)], "kept")
    net.conv("kept", "output", 16, 16)
    model = net.model({"output": ["N", 16, 8, 8]})
    found = match_names(model, {"input": 1.0}, ["first", "kept", "first.bias_output", "nobody"])
    assert (found.matched, found.zero, found.unknown) == (["input"], ["first", "kept", "first.bias_output"], ["nobody"])
    assert (found.missing, found.covered) == (["kept"], 1)
    assert (found.constants, found.kept) == ([], {})


def test_tensors_inside_a_node_are_internal() -> None:
    net = Net(["N", 4, 16])
    net.node("MatMul", ["input", net.weight("w", 16, 16)], "m1")
    net.node("Softmax", ["m1"], "output")
    names = ["m1_node_output", "m1_node_14_output", "output_node_output_0", "m1_node_x_output", "m2_node_output", "m1_node_14"]
    found = match_names(net.model({"output": ["N", 4, 16]}), dict.fromkeys(names, 1.0))
    assert (found.internal, found.unknown) == (names[:3], names[3:])
