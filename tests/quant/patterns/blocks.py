"""Blocks of convolutional nets: activations, shortcuts, gates, pooling, branches."""

import onnx

from tests.quant.patterns.pattern import OPSETS, Graph, Pattern


def conv_relu(opset: int) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu, twice."""
    net = Graph(opset)
    net.node("Relu", [net.batchnorm(net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16), "b1", 16)], "r1")
    net.node("Relu", [net.batchnorm(net.conv("r1", "c2", 16, 16), "b2", 16)], "r2")
    return net.model("r2")


def conv_clip(opset: int) -> onnx.ModelProto:
    """Conv, BatchNorm, Clip to 0..6, a depthwise convolution, global pooling, Flatten, Gemm."""
    net = Graph(opset)
    net.clip(net.batchnorm(net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32), "b1", 32), "k1", 0, 6)
    net.clip(net.conv("k1", "c2", 32, 32, group=32), "k2", 0, 6)
    net.node("Flatten", [net.node("GlobalAveragePool", ["k2"], "pool")], "flat")
    net.node("Gemm", ["flat", net.weight("fc", 10, 32), net.weight("fc_bias", 10)], "output", transB=1)
    return net.model("output", ranks=2)


def conv_silu(opset: int) -> onnx.ModelProto:
    """x * sigmoid(x) behind each convolution."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)
    net.node("Mul", ["c1", net.node("Sigmoid", ["c1"], "g1")], "s1")
    net.conv("s1", "c2", 16, 16)
    net.node("Mul", ["c2", net.node("Sigmoid", ["c2"], "g2")], "s2")
    return net.model("s2")


def conv_hardswish(opset: int) -> onnx.ModelProto:
    """HardSwish by hand, as exporters before opset 14 write it: x * clip(x + 3, 0, 6) / 6."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)
    net.clip(net.node("Add", ["c1", net.constant("three", 3.0)], "p"), "k", 0, 6)
    net.node("Div", [net.node("Mul", ["c1", "k"], "m"), net.constant("six", 6.0)], "h")
    net.conv("h", "output", 16, 16)
    return net.model("output")


def conv_leaky(opset: int) -> onnx.ModelProto:
    """LeakyRelu, PRelu and Elu."""
    net = Graph(opset)
    net.node("LeakyRelu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "l1", alpha=0.1)
    net.node("PRelu", [net.conv("l1", "c2", 16, 16), net.weight("slope", 16, 1, 1)], "l2")
    net.node("Elu", [net.conv("l2", "c3", 16, 16)], "l3")
    net.conv("l3", "output", 16, 16)
    return net.model("output")


def residual(opset: int) -> onnx.ModelProto:
    """A ResNet block with an identity shortcut, one with a convolution on it, an outer output that is read inside."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "stem", 3, 16)], "r0")
    net.conv(net.node("Relu", [net.conv("r0", "a1", 16, 16)], "ra"), "a2", 16, 16)
    net.node("Relu", [net.node("Add", ["a2", "r0"], "sa")], "ya")
    net.conv(net.node("Relu", [net.conv("ya", "b1", 16, 32, strides=[2, 2])], "rb"), "b2", 32, 32)
    net.conv("ya", "short", 16, 32, 1, strides=[2, 2])
    net.node("Relu", [net.node("Add", ["b2", "short"], "sb")], "yb")
    net.conv("yb", "output", 32, 16)
    return net.model("output", "ya")


def residual_sum(opset: int) -> onnx.ModelProto:
    """A shortcut by Sum, as Caffe2 wrote it; the sum is an output as well."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    net.node("Relu", [net.node("Sum", [net.conv("r1", "c2", 16, 16), "r1"], "sum")], "r2")
    net.conv("r2", "output", 16, 16)
    return net.model("output", "r2")


def residual_silu(opset: int) -> onnx.ModelProto:
    """Add of two activated branches, then a branch whose shortcut has no convolution: a bottleneck of YOLO."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)
    net.node("Mul", ["c1", net.node("Sigmoid", ["c1"], "g1")], "s1")
    net.conv("s1", "c2", 16, 16)
    net.node("Mul", ["c2", net.node("Sigmoid", ["c2"], "g2")], "s2")
    net.conv(net.node("Add", ["s1", "s2"], "sum"), "output", 16, 16)
    return net.model("output")


def preactivation(opset: int) -> onnx.ModelProto:
    """BatchNorm and Relu before the convolution, which nothing can fold; the sum flows on."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 8, 8), "c0", 3, 16)
    net.node("Relu", [net.batchnorm("c0", "b1", 16)], "r1")
    net.conv("r1", "c1", 16, 16)
    net.node("Add", ["c1", "c0"], "sum")
    net.node("Relu", [net.batchnorm("sum", "b2", 16)], "r2")
    net.conv("r2", "output", 16, 16)
    return net.model("output")


def squeeze_excite(opset: int) -> onnx.ModelProto:
    """A gate of two 1x1 convolutions on the pooled picture, one by ReduceMean, one with HardSigmoid."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 64)], "r1")
    net.node("Relu", [net.conv(net.node("GlobalAveragePool", ["r1"], "pool"), "down", 64, 16, 1)], "dr")
    net.node("Mul", ["r1", net.node("Sigmoid", [net.conv("dr", "up", 16, 64, 1)], "gate")], "scaled")
    net.conv("scaled", "c2", 64, 64)
    net.node("Relu", [net.conv(net.reduce_mean("c2", "pool2", [2, 3]), "down2", 64, 16, 1)], "dr2")
    net.node("Mul", ["c2", net.node("HardSigmoid", [net.conv("dr2", "up2", 16, 64, 1)], "gate2")], "scaled2")
    net.conv("scaled2", "output", 64, 16)
    return net.model("output")


def concat_branches(opset: int) -> onnx.ModelProto:
    """Inception: branches of convolutions and a pooled one, joined; a joined tensor that is joined again."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    net.node("Relu", [net.conv("r1", "c2", 16, 16)], "r2")
    net.node("MaxPool", ["r1"], "p1", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    net.node("Concat", ["r2", "p1"], "j1", axis=1)
    net.node("Relu", [net.conv("j1", "c3", 32, 16)], "r3")
    net.node("Concat", ["j1", "r3"], "j2", axis=1)
    net.conv("j2", "output", 48, 16)
    return net.model("output")


def pooling(opset: int) -> onnx.ModelProto:
    """MaxPool, AveragePool, nearest upsampling, global pooling, a mean over the picture."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16)], "r1")
    net.conv(net.node("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2]), "c2", 16, 16)
    net.conv(net.node("AveragePool", ["c2"], "p2", kernel_shape=[2, 2], strides=[2, 2]), "c3", 16, 32)
    net.conv(net.upsample("c3", "u"), "c4", 32, 32)
    net.reduce_mean("c4", "mean", [2, 3], keepdims=0)
    net.node("Gemm", ["mean", net.weight("fc", 32, 10)] + ([net.weight("fc_bias", 10)] if opset < 11 else []), "output")
    return net.model("output", ranks=2)


def split_gate(opset: int) -> onnx.ModelProto:
    """Split into two halves of which one goes on and both are joined (C2f), then a gated half (GLU)."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32)], "r1")
    net.split("r1", ["h1", "h2"], 1)
    net.node("Relu", [net.conv("h2", "c2", 16, 16)], "r2")
    net.conv(net.node("Concat", ["h1", "h2", "r2"], "joined", axis=1), "c3", 48, 32)
    first, second = net.split("c3", ["g1", "g2"], 1)
    net.conv(net.node("Mul", [first, net.node("Sigmoid", [second], "gate")], "glu"), "output", 16, 16)
    return net.model("output")


def shuffle(opset: int) -> onnx.ModelProto:
    """Channel shuffle (Reshape, Transpose, Reshape), DepthToSpace, SpaceToDepth, grouped convolutions."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32)], "r1")
    net.node("Relu", [net.conv("r1", "c2", 32, 32, group=2)], "r2")
    net.node("Reshape", ["r2", net.constant("apart", [0, 2, 16, 8, 8], "int64")], "t1")
    net.node("Transpose", ["t1"], "t2", perm=[0, 2, 1, 3, 4])
    net.node("Reshape", ["t2", net.constant("joined", [0, 32, 8, 8], "int64")], "t3")
    net.conv("t3", "c3", 32, 64, group=2)
    net.conv(net.node("DepthToSpace", ["c3"], "d2s", blocksize=2), "c4", 16, 16)
    net.conv(net.node("SpaceToDepth", ["c4"], "s2d", blocksize=2), "output", 64, 16)
    return net.model("output")


def cut_and_pad(opset: int) -> onnx.ModelProto:
    """Focus slices of the picture, Pads that merge and Pads that do not, Slice and Gather of channels."""
    net = Graph(opset)
    net.input("input", "N", 3, 8, 8)
    net.node("Concat", [net.slice("input", "left", 3, 0, 4), net.slice("input", "right", 3, 4, 8)], "focus", axis=1)
    net.node("Relu", [net.conv("focus", "c1", 6, 16)], "r1")
    net.conv(net.pad("r1", "padded", [0, 0, 1, 1, 0, 0, 1, 1]), "c2", 16, 16, pads=[0] * 4)
    net.node("MaxPool", [net.pad("c2", "kept", [0, 0, 1, 1, 0, 0, 1, 1])], "p", kernel_shape=[3, 3])
    net.conv(net.slice("p", "half", 1, 0, 16), "c3", 16, 32)
    net.conv(net.slice("c3", "cut", 1, 8, 24), "c4", 16, 32)
    net.node("Gather", ["c4", net.constant("picked", list(range(0, 32, 2)), "int64")], "even", axis=1)
    net.conv("even", "output", 16, 16)
    return net.model("output")


def deconvolution(opset: int) -> onnx.ModelProto:
    """ConvTranspose: plain, with BatchNorm, with two groups, depthwise."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 4, 4), "c1", 3, 16)], "r1")
    net.node("ConvTranspose", ["r1", net.weight("w1", 16, 32, 2, 2)], "t1", strides=[2, 2])
    net.node("Relu", [net.batchnorm("t1", "b1", 32)], "rt1")
    net.node("ConvTranspose", ["rt1", net.weight("w2", 32, 16, 3, 3), net.weight("wb", 32)], "t2", group=2, pads=[1] * 4)
    net.node("ConvTranspose", ["t2", net.weight("w3", 32, 1, 2, 2)], "t3", group=32, strides=[2, 2])
    net.conv("t3", "output", 32, 16)
    return net.model("output")


def other_ranks(opset: int) -> onnx.ModelProto:
    """Convolutions over one dimension and over three."""
    net = Graph(opset)
    net.node("Conv", [net.input("sound", "N", 16, 32), net.weight("w1", 32, 16, 3), net.weight("b1", 32)], "c1", pads=[1, 1])
    net.node("Conv", [net.node("Relu", ["c1"], "r1"), net.weight("w2", 16, 32, 3)], "flat", pads=[1, 1])
    net.node("Conv", [net.input("film", "N", 3, 4, 8, 8), net.weight("w3", 32, 3, 3, 3, 3)], "c3", pads=[1] * 6)
    net.node("Conv", [net.node("Relu", ["c3"], "r3"), net.weight("w4", 16, 32, 3, 3, 3)], "deep", pads=[1] * 6)
    return net.model("flat", "deep", ranks=[3, 5])


def affine_tail(opset: int) -> onnx.ModelProto:
    """A bias by Add and a normalization by Mul and Add behind convolutions, as Paddle and TensorFlow export them."""
    net = Graph(opset)
    net.node("Conv", [net.input("input", "N", 3, 8, 8), net.weight("w1", 16, 3, 3, 3)], "c1", pads=[1] * 4)
    net.node("Relu", [net.node("Add", ["c1", net.weight("bias1", 1, 16, 1, 1)], "a1")], "r1")
    net.conv("r1", "c2", 16, 16)
    net.node("Mul", ["c2", net.weight("gain", 16, 1, 1)], "m2")
    net.node("Relu", [net.node("Sub", ["m2", net.weight("shift", 1, 16, 1, 1)], "a2")], "r2")
    net.node("ConvTranspose", ["r2", net.weight("w3", 16, 32, 2, 2)], "c3", strides=[2, 2])
    net.batchnorm(net.node("Add", ["c3", net.weight("bias3", 32, 1, 1)], "a3"), "b3", 32)
    net.conv(net.node("Add", [net.weight("place", 1, 32, 16, 16), "b3"], "placed"), "output", 32, 16)
    return net.model("output")


PATTERNS = (
    Pattern(conv_relu, (1, 2, 2), opsets=OPSETS),
    Pattern(conv_clip, (2, 3, 4), opsets=OPSETS),
    Pattern(conv_silu, (1, 2, 2), opsets=OPSETS),
    Pattern(conv_hardswish, (1, 2, 2), opsets=OPSETS),
    Pattern(conv_leaky, (3, 4, 4), opsets=OPSETS),
    Pattern(residual, (5, 7, 7), opsets=OPSETS),
    Pattern(residual_sum, (2, 3, 3), opsets=OPSETS),
    Pattern(residual_silu, (2, 3, 4), opsets=OPSETS),
    Pattern(preactivation, (2, 4, 4), opsets=OPSETS),
    Pattern(squeeze_excite, (2, 3, 3), floats=("down", "up", "down2", "up2"), opsets=OPSETS),
    Pattern(concat_branches, (3, 4, 7), opsets=OPSETS),
    Pattern(pooling, (4, 5, 9), opsets=OPSETS),
    Pattern(split_gate, (3, 4, 7), opsets=OPSETS),
    Pattern(shuffle, (4, 5, 10), opsets=OPSETS),
    Pattern(cut_and_pad, (4, 5, 12), opsets=OPSETS),
    Pattern(deconvolution, (4, 5, 5), opsets=OPSETS),
    Pattern(other_ranks, (3, 4, 4), opsets=OPSETS),
    Pattern(affine_tail, (3, 4, 4), opsets=OPSETS),
)
