"""What is rare but legal: subgraphs, empty tensors, ops with many outputs, BatchNorms that cannot fold."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.quant.patterns.pattern import FLOAT, OPSETS, Graph, Pattern


def branches(opset: int) -> onnx.ModelProto:
    """If whose branches hold convolutions and read a tensor from outside: left as it is."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 16, 8, 8), "c1", 16, 16)], "r1")
    net.weight("inner.w", 16, 16, 1, 1)
    bodies = {}
    for name, op in (("then_branch", "Conv"), ("else_branch", "Mul")):
        node = helper.make_node(op, ["r1", "inner.w" if op == "Conv" else "r1"], [f"{name}.out"])
        bodies[name] = helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}.out", FLOAT, None)])
    net.node("If", [net.constant("yes", True, np.bool_)], "chosen", **bodies)
    net.node("Add", ["chosen", "r1"], "sum")
    net.conv("r1", "output", 16, 16)
    return net.model("output", "sum")


def loop(opset: int) -> onnx.ModelProto:
    """Loop that carries an activation; its body is left as it is."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 16, 8, 8), "c1", 16, 16)], "r1")
    kept = helper.make_node("Identity", ["go.in"], ["go.out"])
    body = helper.make_graph(
        [helper.make_node("Mul", ["x.in", "r1"], ["x.out"]), kept],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go.in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x.in", FLOAT, None),
        ],
        [helper.make_tensor_value_info("go.out", TensorProto.BOOL, []), helper.make_tensor_value_info("x.out", FLOAT, None)],
    )
    net.node("Loop", [net.constant("two", 2, np.int64), net.constant("go", True, np.bool_), "r1"], "looped", body=body)
    net.conv("r1", "output", 16, 16)
    return net.model("output", "looped")


def empty_tensors(opset: int) -> onnx.ModelProto:
    """Inputs left out by a tensor without elements, and a Concat with one."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    scales = [net.constant("roi", np.zeros(0)), net.constant("scales", [1, 1, 2, 2])] if opset >= 11 else None
    net.node("Resize", ["r1", *scales], "up", mode="nearest") if scales else net.upsample("r1", "up")
    net.node("Concat", ["up", net.constant("nothing", np.zeros((4, 0, 16, 16)))], "joined", axis=1)
    net.conv("joined", "output", 16, 16)
    return net.model("output")


def linear_resize(opset: int) -> onnx.ModelProto:
    """Linear upsampling between two convolutions, InstanceNormalization, a sum of four."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    roi = net.constant("roi", np.zeros(0)) if opset == 11 else ""
    net.node(
        "Resize",
        ["r1", roi, net.constant("scales", [1, 1, 2, 2])],
        "up",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    net.conv("up", "c2", 16, 16)
    net.node("InstanceNormalization", ["c2", net.weight("g", 16), net.weight("b", 16)], "normed")
    net.node("Sum", ["up", "normed", "c2"], "sum")
    net.conv("sum", "output", 16, 16)
    return net.model("output")


def stubborn_batchnorms(opset: int) -> onnx.ModelProto:
    """BatchNorms that cannot fold: at the input, behind an Add, behind a convolution that others read; two in a row."""
    net = Graph(opset)
    net.conv(net.batchnorm(net.input("input", "N", 3, 8, 8), "b0", 3), "c1", 3, 16)
    net.batchnorm("c1", "b1", 16)
    net.batchnorm(net.node("Add", ["c1", "b1"], "s1"), "b2", 16)
    net.batchnorm(net.batchnorm(net.conv("b2", "c2", 16, 16), "b3", 16), "b4", 16)
    net.conv("b4", "output", 16, 16)
    return net.model("output")


def constant_tail(opset: int) -> onnx.ModelProto:
    """TopK behind a classifier, an output that is constant, an argmax."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    net.conv("r1", "c2", 16, 16)
    net.node("Mul", [net.constant("three", [3.0]), net.constant("four", [4.0])], "twelve")
    net.reduce_mean("c2", "scores", [2, 3], keepdims=0)
    inputs = ["scores"] if opset < 10 else ["scores", net.constant("k", [3], np.int64)]
    more: dict[str, Any] = {"k": 3} if opset < 10 else {}
    net.nodes.append(helper.make_node("TopK", inputs, ["values", "places"], name="top", **more))
    return net.model("values", "twelve", ranks=[2, 1])


def recurrent(opset: int) -> onnx.ModelProto:
    """A convolution, an LSTM whose first output is left out, a Gemm: a reader of text."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", 2, 3, 8, 8), "c1", 3, 16, strides=[8, 1])], "r1")
    net.node("Transpose", [net.squeeze("r1", "rows", [2])], "steps", perm=[2, 0, 1])
    gates = [net.weight("w", 1, 64, 16), net.weight("r", 1, 64, 16), net.weight("lb", 1, 128)]
    net.nodes.append(helper.make_node("LSTM", ["steps", *gates], ["", "last"], name="lstm", hidden_size=16))
    net.node("Gemm", [net.squeeze("last", "state", [0]), net.weight("fc", 16, 10), net.weight("fcb", 10)], "output")
    return net.model("output", ranks=2)


PATTERNS = (
    Pattern(branches, (2, 2, 2), opsets=(11, 13, 17, 21, 24)),
    Pattern(loop, (2, 2, 2), opsets=(11, 13, 17, 21, 24)),
    Pattern(empty_tensors, (1, 2, 2), opsets=OPSETS),
    Pattern(linear_resize, (2, 3, 3), opsets=(11, 13, 17, 21, 24)),
    Pattern(stubborn_batchnorms, (2, 3, 3), opsets=OPSETS),
    Pattern(constant_tail, (1, 2, 2), opsets=OPSETS),
    Pattern(recurrent, (1, 2, 3), opsets=(9, 11, 13, 17, 21)),
)
