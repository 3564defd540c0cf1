"""Layouts and signatures: NHWC, several inputs and outputs, fixed and dynamic sizes."""

import numpy as np
import onnx

from tests.quant.patterns.pattern import OPSETS, Graph, Pattern


def nhwc(opset: int) -> onnx.ModelProto:
    """TensorFlow's way: NHWC in and out, a Transpose on each side of every convolution, a bias by Add in NHWC."""
    net = Graph(opset)
    net.node("Transpose", [net.input("input", "N", 8, 8, 3)], "t1", perm=[0, 3, 1, 2])
    net.node("Conv", ["t1", net.weight("w1", 16, 3, 3, 3)], "c1", pads=[1] * 4)
    net.node("Transpose", ["c1"], "t2", perm=[0, 2, 3, 1])
    net.node("Relu", [net.node("Add", ["t2", net.weight("b1", 16)], "a1")], "r1")
    net.node("Transpose", ["r1"], "t3", perm=[0, 3, 1, 2])
    net.conv("t3", "c2", 16, 16)
    net.node("Transpose", ["c2"], "t4", perm=[0, 2, 3, 1])
    net.node("Add", ["t4", "r1"], "sum")
    net.node("Transpose", ["sum"], "t5", perm=[0, 3, 1, 2])
    net.node("Transpose", [net.conv("t5", "c3", 16, 16)], "output", perm=[0, 2, 3, 1])
    return net.model("output")


def nhwc_outside(opset: int) -> onnx.ModelProto:
    """NHWC at the input only, normalization in the graph, the mean over the picture."""
    net = Graph(opset)
    net.node("Sub", [net.input("input", "N", 8, 8, 3), net.constant("mean", [0.4, 0.5, 0.6])], "centred")
    net.node("Mul", ["centred", net.constant("gain", [4.0, 4.2, 4.4])], "normed")
    net.node("Transpose", ["normed"], "t1", perm=[0, 3, 1, 2])
    net.node("Relu", [net.conv("t1", "c1", 3, 16, strides=[2, 2])], "r1")
    net.node("Relu", [net.conv("r1", "c2", 16, 32)], "r2")
    net.squeeze(net.reduce_mean("r2", "mean_out", [2, 3]), "flat", [2, 3])
    net.node("MatMul", ["flat", net.weight("fc", 32, 10)], "output")
    return net.model("output", ranks=2)


def many_inputs(opset: int) -> onnx.ModelProto:
    """Two pictures of which one is read twice, three outputs: one in the middle, one that is an input passed on."""
    net = Graph(opset)
    net.input("left", "N", 3, 8, 8)
    net.input("right", "N", 3, 8, 8)
    net.node("Relu", [net.conv("left", "c1", 3, 16)], "r1")
    net.node("Relu", [net.conv("right", "c2", 3, 16)], "r2")
    net.node("Relu", [net.conv("right", "c3", 3, 16, 1)], "r3")
    net.node("Add", [net.node("Add", ["r1", "r2"], "s1"), "r3"], "s2")
    net.node("Identity", ["left"], "passed")
    net.conv("s2", "output", 16, 16)
    return net.model("output", "s1", "passed")


def dynamic_picture(opset: int) -> onnx.ModelProto:
    """Height and width unknown; upsampling to the size of another tensor, joined with it."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, "H", "W"), "c1", 3, 16)], "r1")
    net.node("Relu", [net.conv("r1", "c2", 16, 16, strides=[2, 2])], "r2")
    net.upsample("r2", "up")
    net.node("Concat", ["up", "r1"], "joined", axis=1)
    net.conv("joined", "output", 32, 16)
    return net.model("output")


def fixed_batch(opset: int) -> onnx.ModelProto:
    """A batch of one: the classifier is a product with one vector."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", 1, 3, 8, 8), "c1", 3, 16)], "r1")
    net.conv("r1", "c2", 16, 32)
    net.node("Reshape", [net.node("GlobalAveragePool", ["c2"], "pool"), net.constant("shape", [1, -1], np.int64)], "flat")
    net.node("Gemm", ["flat", net.weight("fc", 32, 10), net.weight("fcb", 10)], "output")
    return net.model("output", ranks=2)


def detector_head(opset: int) -> onnx.ModelProto:
    """Heads of a detector: narrow convolutions, Reshape and Transpose behind them, boxes by Exp, all joined."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32)], "r1")
    net.node("Sigmoid", [net.conv("r1", "score", 32, 1, 1)], "scores")
    net.conv("r1", "box", 32, 16, 1)
    net.node("Exp", ["box"], "sizes")
    net.node("Concat", ["sizes", "scores"], "joined", axis=1)
    net.node("Reshape", ["joined", net.constant("flat", [0, 17, 64], np.int64)], "rows")
    net.node("Transpose", ["rows"], "output", perm=[0, 2, 1])
    return net.model("output", ranks=3)


PATTERNS = (
    Pattern(nhwc, (2, 3, 4), opsets=OPSETS),
    Pattern(nhwc_outside, (2, 3, 5), opsets=OPSETS),
    Pattern(many_inputs, (1, 3, 7), opsets=OPSETS),
    Pattern(dynamic_picture, (2, 3, 5), opsets=OPSETS),
    Pattern(fixed_batch, (1, 2, 4), opsets=OPSETS),
    Pattern(detector_head, (1, 2, 2), floats=("score",), opsets=OPSETS),
)
