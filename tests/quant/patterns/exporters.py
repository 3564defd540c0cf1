"""What other exporters than PyTorch's write: TensorFlow, Keras, Paddle, MXNet, CNTK."""

import numpy as np
import onnx

from tests.quant.patterns.pattern import Graph, Pattern


def automatic_padding(opset: int) -> onnx.ModelProto:
    """auto_pad at convolutions, a pooling and a ConvTranspose; the bias by an Add of [C, 1, 1]."""
    net = Graph(opset)
    net.input("input", "N", 3, 9, 9)
    net.node("Conv", ["input", net.weight("w1", 16, 3, 3, 3)], "c1", auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3])
    net.node("Relu", [net.node("Add", ["c1", net.weight("b1", 16, 1, 1)], "a1")], "r1")
    net.node("Conv", ["r1", net.weight("w2", 16, 16, 3, 3)], "c2", auto_pad="SAME_LOWER", kernel_shape=[3, 3])
    net.node("MaxPool", ["c2"], "pooled", auto_pad="SAME_UPPER", kernel_shape=[2, 2], strides=[2, 2])
    net.node("ConvTranspose", ["pooled", net.weight("w3", 16, 16, 3, 3)], "up", auto_pad="SAME_UPPER", strides=[2, 2])
    net.conv("up", "output", 16, 16)
    return net.model("output")


def separable(opset: int) -> onnx.ModelProto:
    """tf2onnx: NHWC in, depthwise weights behind Reshape and Transpose, a mean in NHWC, MatMul and Add."""
    net = Graph(opset)
    net.node("Transpose", [net.input("input", "N", 8, 8, 3)], "picture", perm=[0, 3, 1, 2])
    net.node("Conv", ["picture", net.weight("w0", 16, 3, 3, 3)], "c0", auto_pad="SAME_UPPER", kernel_shape=[3, 3])
    net.clip(net.batchnorm("c0", "b0", 16), "r0", 0, 6)
    sizes = net.constant("sizes", [3, 3, 1, 16], np.int64)
    net.node("Reshape", [net.weight("wd", 3, 3, 16, 1), sizes], "wd_flat")
    net.node("Conv", ["r0", net.node("Transpose", ["wd_flat"], "wd_t", perm=[3, 2, 0, 1])], "c1", group=16, pads=[1] * 4)
    net.clip(net.batchnorm("c1", "b1", 16), "r1", 0, 6)
    net.batchnorm(net.node("Conv", ["r1", net.weight("w2", 16, 16, 1, 1)], "c2"), "b2", 16)
    net.node("Transpose", [net.node("Add", ["b2", "r0"], "sum")], "rows", perm=[0, 2, 3, 1])
    net.reduce_mean("rows", "pooled", [1, 2], keepdims=0)
    net.node("Add", [net.node("MatMul", ["pooled", net.weight("fc", 16, 32)], "product"), net.weight("fcb", 32)], "output")
    return net.model("output", ranks=2)


def resized_to_another(opset: int) -> onnx.ModelProto:
    """Paddle: an Identity behind BatchNorm, HardSwish by HardSigmoid and Mul, a Resize to the Shape of another tensor."""
    net = Graph(opset)
    net.batchnorm(net.conv(net.input("input", "N", 3, "H", "W"), "c1", 3, 16, strides=[2, 2]), "b1", 16)
    net.node("HardSigmoid", [net.node("Identity", ["b1"], "same")], "gate", alpha=1 / 6, beta=0.5)
    net.conv(net.node("Mul", ["same", "gate"], "hardswish"), "c2", 16, 16, strides=[2, 2])
    picture = net.slice(net.node("Shape", ["hardswish"], "sizes"), "picture", 0, 2, 4)
    channels = net.slice(net.node("Shape", ["c2"], "own_sizes"), "channels", 0, 0, 2)
    target = net.node(
        "Concat", [channels, net.node("Cast", [picture], "as_int64", to=onnx.TensorProto.INT64)], "target", axis=0
    )
    nothing = [net.constant(name, np.zeros(0)) for name in ("roi", "scales")]
    net.node("Resize", ["c2", *nothing, target], "up", mode="linear", coordinate_transformation_mode="asymmetric")
    net.conv(net.node("Concat", ["up", "hardswish"], "joined", axis=1), "c3", 32, 16)
    net.node("Sigmoid", ["c3"], "output")
    return net.model("output")


def keras_gate(opset: int) -> onnx.ModelProto:
    """Keras: normalization in the graph, an uneven Pad, a squeeze-and-excitation that goes through NHWC and back."""
    net = Graph(opset)
    net.node("Transpose", [net.input("input", "N", 16, 16, 3)], "picture", perm=[0, 3, 1, 2])
    net.node("Mul", ["picture", net.constant("rescale", [1 / 255.0])], "unit")
    net.node("Sub", ["unit", net.constant("mean", np.full((1, 3, 1, 1), 0.4))], "centred")
    net.node("Div", ["centred", net.constant("std", np.full((1, 3, 1, 1), 0.2))], "white")
    net.conv(net.pad("white", "padded", [0, 0, 0, 0, 0, 0, 1, 1]), "c0", 3, 32, strides=[2, 2], pads=[0] * 4)
    _silu(net, net.conv(_silu(net, "c0", "s0"), "spread", 32, 32, group=32), "s1")
    net.reduce_mean(net.node("Transpose", ["s1"], "rows", perm=[0, 2, 3, 1]), "pooled", [1, 2], keepdims=0)
    net.node("Reshape", ["pooled", net.constant("sizes", [-1, 1, 1, 32], np.int64)], "one_row")
    net.conv(net.node("Transpose", ["one_row"], "one_pixel", perm=[0, 3, 1, 2]), "squeezed", 32, 16, 1)
    net.node("Sigmoid", [net.conv(_silu(net, "squeezed", "s2"), "excited", 16, 32, 1)], "gate")
    net.conv(net.node("Mul", ["s1", "gate"], "gated"), "projected", 32, 32, 1)
    net.conv(net.node("Add", ["projected", "s0"], "sum"), "output", 32, 16)
    return net.model("output")


def normalized_input(opset: int) -> onnx.ModelProto:
    """MXNet's ResNet v2: BatchNorm at the input, BatchNorm and Relu before convolutions, a Reshape before the Gemm."""
    net = Graph(opset)
    net.batchnorm(net.conv(net.batchnorm(net.input("input", "N", 3, 16, 16), "b0", 3), "c0", 3, 32), "b1", 32)
    net.node("MaxPool", [net.node("Relu", ["b1"], "r1")], "pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    net.node("Relu", [net.batchnorm("pooled", "b2", 32)], "r2")
    net.node("Relu", [net.batchnorm(net.conv("r2", "c1", 32, 32), "b3", 32)], "r3")
    net.node("Add", [net.conv("r3", "c2", 32, 32), net.conv("r2", "shortcut", 32, 32, 1)], "sum")
    net.node("GlobalAveragePool", [net.node("Relu", [net.batchnorm("sum", "b4", 32)], "r4")], "mean")
    net.node("Reshape", ["mean", net.constant("sizes", [0, -1], np.int64)], "flat")
    net.node("Gemm", ["flat", net.weight("fc", 20, 32), net.weight("fcb", 20)], "output", transB=1)
    return net.model("output", ranks=2)


def _silu(net: Graph, source: str, output: str) -> str:
    return net.node("Mul", [source, net.node("Sigmoid", [source], f"{output}.sigmoid")], output)


PATTERNS = (
    Pattern(automatic_padding, (3, 4, 5), opsets=(9, 13, 17)),
    Pattern(separable, (3, 4, 7), opsets=(9, 13)),
    Pattern(resized_to_another, (2, 3, 4), opsets=(11, 13)),
    Pattern(keras_gate, (3, 4, 4), floats=("squeezed", "excited"), opsets=(13, 17)),
    Pattern(normalized_input, (3, 5, 6), opsets=(9, 13)),
)
