"""Gains and shifts of channels go into the weights before them, and nothing else does."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from app.quant.graph import prepare_model
from tests.quant.nets import run
from tests.quant.patterns.pattern import Graph, feeds

Tail = Callable[[Graph, str], str]


def with_tail(tail: Tail, layer: str = "Conv") -> onnx.ModelProto:
    """Return a layer of 16 channels, what tail makes of it, and a Relu."""
    net = Graph(17)
    if layer == "Gemm":
        net.node(
            "Gemm", [net.input("input", "N", 8), net.weight("w", 8, 16), net.weight("bias", 1, 16)], "c", alpha=0.5, beta=3.0
        )
    else:
        more = {"group": 2} if layer == "ConvTranspose" else {}
        weight = net.weight("w", 8, 8, 3, 3) if layer == "ConvTranspose" else net.weight("w", 16, 8, 3, 3)
        net.node(layer, [net.input("input", "N", 8, 6, 6), weight], "c", **more)
    net.node("Relu", [tail(net, "c")], "output")
    return net.model("output", ranks=2 if layer == "Gemm" else 4)


def channelwise(net: Graph, name: str) -> str:
    return net.constant(name, net.random.uniform(0.5, 2, (16, 1, 1)))


FOLDED: dict[str, Tail] = {
    "add": lambda net, x: net.node("Add", [channelwise(net, "k"), x], "y"),
    "subtract": lambda net, x: net.node("Sub", [x, channelwise(net, "k")], "y"),
    "subtract from": lambda net, x: net.node("Sub", [channelwise(net, "k"), x], "y"),
    "multiply": lambda net, x: net.node("Mul", [x, channelwise(net, "k")], "y"),
    "divide": lambda net, x: net.node("Div", [x, channelwise(net, "k")], "y"),
    "scalar": lambda net, x: net.node("Mul", [x, net.constant("k", -0.25)], "y"),
    "batchnorm": lambda net, x: net.batchnorm(x, "y", 16),
    "chain": lambda net, x: net.batchnorm(net.node("Mul", [x, channelwise(net, "k")], "m"), "y", 16),
}
KEPT: dict[str, Tail] = {
    "divide by": lambda net, x: net.node("Div", [channelwise(net, "k"), x], "y"),
    "differs by place": lambda net, x: net.node("Add", [x, net.weight("k", 1, 16, 4, 4)], "y"),
    "differs by image": lambda net, x: net.node("Add", [x, net.weight("k", 4, 1, 1, 1)], "y"),
    "widens": lambda net, x: net.node("Add", [x, net.weight("k", 1, 1, 1, 1, 1)], "y"),
    "read twice": lambda net, x: net.node("Mul", [net.node("Add", [x, channelwise(net, "k")], "a"), x], "y"),
    "infinite": lambda net, x: net.node("Div", [x, net.constant("k", 0.0)], "y"),
}


@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("name", FOLDED)
def test_folded_tails_keep_the_values(name: str, layer: str) -> None:
    model = with_tail(FOLDED[name], layer)
    prepared = prepare_model(model)
    assert [node.op_type for node in prepared.graph.node] == [layer, "Relu"]
    assert prepared.graph.node[0].output[0] == "y"
    images = feeds(model)
    np.testing.assert_allclose(run(prepared, images)["output"], run(model, images)["output"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KEPT)
def test_other_tails_stay(name: str) -> None:
    net = Graph(17)
    net.node("Conv", [net.input("input", 4, 8, 6, 6), net.weight("w", 16, 8, 3, 3)], "c")
    net.node("Relu", [KEPT[name](net, "c")], "output")
    model = net.model("output", ranks=5 if name == "widens" else 4)
    prepared = prepare_model(model)
    assert [node.op_type for node in prepared.graph.node] == [node.op_type for node in model.graph.node]


def test_gemm_loses_alpha_and_beta() -> None:
    model = with_tail(lambda net, x: net.node("Add", [x, net.weight("k", 16)], "y"), "Gemm")
    prepared = prepare_model(model)
    gemm, _ = prepared.graph.node
    assert {attribute.name: attribute.f for attribute in gemm.attribute} == {"alpha": 1.0, "beta": 1.0}
    images = feeds(model)
    np.testing.assert_allclose(run(prepared, images)["output"], run(model, images)["output"], rtol=1e-4, atol=1e-5)


def test_a_batchnorm_in_training_stays() -> None:
    def tail(net: Graph, source: str) -> str:
        names = [net.constant(f"n{i}", np.ones(16)) for i in range(4)]
        outputs = ["y", "mean", "variance"]
        net.nodes.append(onnx.helper.make_node("BatchNormalization", [source, *names], outputs, training_mode=1))
        return "y"

    assert "BatchNormalization" in [node.op_type for node in prepare_model(with_tail(tail)).graph.node]
