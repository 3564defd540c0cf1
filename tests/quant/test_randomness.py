"""Models that give other values in every run are refused by name, unless nothing that matters depends on it."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.errors import CalibrationRandom
from app.quant.randomness import check_repeatable
from tests.quant.nets import Net


def noisy(op: str, inputs: list[str], **attributes: Any) -> onnx.GraphProto:
    """A node of that operator, added to what a convolution gives."""
    net = Net(["N", 3, 8, 8])
    net.constant("half", np.float32(0.5))
    net.constant("none", np.float32(0))
    net.constant("yes", np.True_, np.bool_)
    net.constant("no", np.False_, np.bool_)
    net.conv("input", "c", 3, 16)
    net.node(op, inputs, "noise", **attributes)
    net.node("Add", ["c", "noise"], "output")
    return net.model({"output": ["N", 16, 8, 8]}).graph


RANDOM: list[tuple[str, list[str], dict[str, Any]]] = [
    ("RandomNormalLike", ["c"], {}),
    ("RandomNormalLike", ["c"], {"seed": 3.0}),
    ("RandomUniformLike", ["c"], {}),
    ("RandomNormal", [], {"shape": [1, 16, 8, 8]}),
    ("RandomUniform", [], {"shape": [1, 16, 8, 8]}),
    ("Bernoulli", ["c"], {}),
    ("Multinomial", ["c"], {}),
    ("Dropout", ["c", "half", "yes"], {}),
    ("Dropout", ["c", "", "yes"], {}),
    ("Dropout", ["c", "half", "computed"], {}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), RANDOM)
def test_a_random_node_is_named(op: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    with pytest.raises(CalibrationRandom, match=rf"Node noise_node \({op}\) .* and output depends on it"):
        check_repeatable(noisy(op, inputs, **attributes), ["c"])


@pytest.mark.parametrize("inputs", [["c"], ["c", "half"], ["c", "half", "no"], ["c", "none", "yes"]])
def test_dropout_that_drops_nothing_is_taken(inputs: list[str]) -> None:
    check_repeatable(noisy("Dropout", inputs), ["c", "noise", "output"])


def test_what_reaches_nothing_may_be_random() -> None:
    net = Net(["N", 3, 8, 8])
    net.node("RandomNormalLike", ["input"], "noise")
    net.node("Exp", ["noise"], "unread")
    net.node("Shape", ["noise"], "shape")
    net.node("Reshape", ["input", "shape"], "output")
    graph = net.model({"output": ["N", 3, 8, 8]}).graph
    check_repeatable(graph, ["input", "output"])
    with pytest.raises(CalibrationRandom, match="and unread depends on it"):
        check_repeatable(graph, ["input", "unread"])


@pytest.mark.parametrize("is_inside", [True, False])
def test_subgraphs_are_looked_into(is_inside: bool) -> None:
    net = Net(["N", 3, 8, 8])
    outer = "input" if is_inside else net.node("RandomUniformLike", ["input"], "noise")
    nodes = [helper.make_node("RandomUniformLike" if is_inside else "Exp", [outer], ["inner"], name="deep")]
    branch = helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])
    net.node("If", [net.constant("yes", np.True_, np.bool_)], "output", then_branch=branch, else_branch=branch)
    with pytest.raises(CalibrationRandom, match="Node output_node" if is_inside else "Node noise_node"):
        check_repeatable(net.model({"output": ["N", 3, 8, 8]}).graph, ["input"])
