"""NHWC models lose the Transposes around their convolutions; names and values stay."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from app.quant.graph import prepare_model
from tests.quant.nets import run
from tests.quant.patterns import PATTERNS
from tests.quant.patterns.pattern import Graph, feeds

IN, OUT = [0, 3, 1, 2], [0, 2, 3, 1]


def layer(net: Graph, source: str, name: str, inner: int = 8) -> str:
    """A convolution between two Transposes: NHWC in, NHWC out."""
    net.node("Transpose", [source], f"{name}.in", perm=IN)
    net.conv(f"{name}.in", f"{name}.conv", inner, 8)
    return net.node("Transpose", [f"{name}.conv"], name, perm=OUT)


def silu(net: Graph, x: str, _: str) -> str:
    return net.node("Mul", [x, net.node("Sigmoid", [x], "gate")], "between")


def concat(net: Graph, x: str, y: str) -> str:
    return net.node("Concat", [x, y], "between", axis=-1)


def padded(net: Graph, x: str, _: str) -> str:
    return net.pad(x, "between", [0, 1, 2, 0, 0, 3, 1, 0])


MOVED: dict[str, Callable[[Graph, str, str], str]] = {
    "nothing": lambda net, x, _: x,
    "clip": lambda net, x, _: net.clip(x, "between", 0, 1),
    "residual": lambda net, x, y: net.node("Relu", [net.node("Add", [x, y], "sum")], "between"),
    "bias": lambda net, x, _: net.node("Add", [net.weight("bias", 8), x], "between"),
    "scalar": lambda net, x, _: net.node("Mul", [x, net.constant("two", 2.0)], "between"),
    "by place": lambda net, x, _: net.node("Sub", [x, net.weight("place", 6, 1, 8)], "between"),
    "slope": lambda net, x, _: net.node("PRelu", [x, net.weight("slope", 1, 1, 8)], "between"),
    "silu": silu,
    "concat": concat,
    "pad": padded,
}


def between(name: str) -> onnx.ModelProto:
    """Two NHWC layers with something between them."""
    net = Graph(17)
    x = layer(net, net.input("input", "N", 6, 6, 3), "x", 3)
    y = layer(net, x, "y")
    layer(net, MOVED[name](net, x, y), "output", 16 if name == "concat" else 8)
    return net.model("output")


@pytest.mark.parametrize("name", MOVED)
def test_only_the_outer_transposes_are_left(name: str) -> None:
    model = between(name)
    prepared = prepare_model(model)
    onnx.checker.check_model(prepared, full_check=True)
    turned = [node.output[0] for node in prepared.graph.node if node.op_type == "Transpose"]
    assert turned == ["x.in", "output"]
    assert prepare_model(prepared) == prepared
    images = feeds(model)
    given = {tensor for node in model.graph.node for tensor in node.output}
    kept = [tensor for node in prepared.graph.node for tensor in node.output if tensor in given]
    assert ("output.in" in kept) == (name not in ("nothing", "pad"))  # the Pad goes into the convolution
    before, after = run(model, images, kept), run(prepared, images, kept)
    for tensor, value in before.items():
        np.testing.assert_allclose(after[tensor], value, rtol=1e-4, atol=1e-5)


def test_a_tensor_that_is_an_output_too_is_turned_for_it_alone() -> None:
    net = Graph(17)
    x = layer(net, net.input("input", "N", 6, 6, 3), "x", 3)
    layer(net, net.node("Relu", [x], "seen"), "output")
    model = net.model("output", "seen")
    prepared = prepare_model(model)
    assert sum(node.op_type == "Transpose" for node in prepared.graph.node) == 3
    images = feeds(model)
    for output, value in run(model, images).items():
        np.testing.assert_allclose(run(prepared, images)[output], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "modern-attention", "shuffle", "detector-head", "recurrent"])
def test_what_would_not_get_fewer_stays(name: str) -> None:
    model = PATTERNS[name].build(17)
    made = {output for node in model.graph.node for output in node.output}
    turned = [node for node in prepare_model(model).graph.node if node.op_type == "Transpose"]
    assert len(turned) == sum(node.op_type == "Transpose" for node in model.graph.node)
    assert all(node.output[0] in made for node in turned)


def test_other_permutations_do_not_cancel() -> None:
    net = Graph(17)
    net.node("Transpose", [net.input("input", "N", 6, 6, 6)], "t1", perm=OUT)
    net.node("Transpose", [net.node("Relu", ["t1"], "r1")], "t2", perm=OUT)
    net.conv("t2", "output", 6, 16)
    model = net.model("output")
    assert [node.op_type for node in prepare_model(model).graph.node] == ["Transpose", "Relu", "Transpose", "Conv"]
