"""Whole blocks of nets, as their exporters write them: super-resolution, pyramids, mixers, mobile transformers."""

import numpy as np
import onnx

from tests.quant.patterns.pattern import Graph, Pattern


def convnext_v2(opset: int) -> onnx.ModelProto:
    """ConvNeXt V2: LayerNorm through NHWC and back, GELU by Tanh, a global response norm of channels."""
    net = Graph(opset)
    net.conv(net.input("x", "N", 3, 32, 32), "stem", 3, 24, 4, strides=[4, 4], pads=[0] * 4)
    net.node("Transpose", ["stem"], "t0", perm=[0, 2, 3, 1])
    net.node("LayerNormalization", ["t0", net.weight("g0", 24), net.weight("b0", 24)], "ln0", axis=-1)
    net.node("Transpose", ["ln0"], "t1", perm=[0, 3, 1, 2])
    net.conv("t1", "dw", 24, 24, 7, group=24)
    net.node("Transpose", ["dw"], "t2", perm=[0, 2, 3, 1])
    net.node("LayerNormalization", ["t2", net.weight("g1", 24), net.weight("b1", 24)], "ln1", axis=-1)
    net.node("Add", [net.node("MatMul", ["ln1", net.weight("w1", 24, 96)], "mm1"), net.weight("bb1", 96)], "fc1")

    net.node("Pow", ["fc1", net.constant("three", 3.0)], "p3")
    net.node("Mul", ["p3", net.constant("c", 0.044715)], "p3c")
    net.node("Add", ["fc1", "p3c"], "s")
    net.node("Mul", ["s", net.constant("r2pi", 0.79788456)], "s2")
    net.node("Tanh", ["s2"], "th")
    net.node("Add", ["th", net.constant("one", 1.0)], "th1")
    net.node("Mul", ["fc1", net.constant("half", 0.5)], "hx")
    net.node("Mul", ["hx", "th1"], "gelu")

    ax = [net.constant("ax12", [1, 2], np.int64)] if opset >= 18 else []
    kw = {} if ax else {"axes": [1, 2]}
    net.node("ReduceL2", ["gelu", *ax], "gx", keepdims=1, **kw)
    net.reduce_mean("gx", "gm", [-1])
    net.node("Add", ["gm", net.constant("eps", 1e-6)], "gme")
    net.node("Div", ["gx", "gme"], "nx")
    net.node("Mul", ["gelu", "nx"], "gn")
    net.node("Mul", ["gn", net.weight("gamma", 1, 1, 1, 96)], "gg")
    net.node("Add", ["gg", net.weight("beta", 1, 1, 1, 96)], "gb")
    net.node("Add", ["gb", "gelu"], "grn")
    net.node("Add", [net.node("MatMul", ["grn", net.weight("w2", 96, 24)], "mm2"), net.weight("bb2", 24)], "fc2")
    net.node("Transpose", ["fc2"], "t3", perm=[0, 3, 1, 2])
    net.node("Add", ["t1", "t3"], "res")
    net.reduce_mean("res", "gap", [2, 3], keepdims=0)
    net.node("LayerNormalization", ["gap", net.weight("g2", 24), net.weight("b2", 24)], "ln2", axis=-1)
    net.node("Gemm", ["ln2", net.weight("fc", 10, 24), net.weight("fcb", 10)], "logits", transB=1)
    return net.model("logits", ranks=2)


def super_resolution(opset: int) -> onnx.ModelProto:
    """Super-resolution: scaled residuals, PRelu, DepthToSpace, a cubic Resize of the input added at the end."""
    net = Graph(opset)
    net.conv(net.input("lr", "N", 3, 8, 8), "head", 3, 32)
    for i in range(2):
        src = "head" if i == 0 else "r0"
        net.node("PRelu", [net.conv(src, f"a{i}", 32, 32), net.weight(f"slope{i}", 32, 1, 1)], f"p{i}")
        net.conv(f"p{i}", f"b{i}", 32, 32)
        net.node("Mul", [f"b{i}", net.constant(f"rs{i}", 0.1)], f"m{i}")
        net.node("Add", [src, f"m{i}"], f"r{i}")
    net.node("Add", [net.conv("r1", "tail", 32, 32), "head"], "long")
    net.conv("long", "up", 32, 48)
    net.node("DepthToSpace", ["up"], "ps", blocksize=4, mode="CRD")
    net.node(
        "Resize",
        ["lr", "", net.constant("sc", [1, 1, 4, 4])],
        "bic",
        mode="cubic",
        coordinate_transformation_mode="half_pixel",
        cubic_coeff_a=-0.75,
    )
    net.node("Add", ["ps", "bic"], "sr")
    net.clip("sr", "out", 0, 1)
    return net.model("out")


def _merge_patches(net: Graph, grid: str) -> None:
    """Join four neighbours of an 8 x 8 grid of 32 channels, each taken by a strided Slice, to `pmr`."""
    for i, starts in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        numbers = {"st": starts, "en": (2**31, 2**31), "ax": (1, 2), "sp": (2, 2)}
        constants = [net.constant(f"{name}{i}", values, np.int64) for name, values in numbers.items()]
        net.node("Slice", [grid, *constants], f"pm{i}")
    net.node("Concat", ["pm0", "pm1", "pm2", "pm3"], "pmc", axis=-1)
    _reshape(net, "pmc", "pmr", [-1, 16, 128])


def patch_merging(opset: int) -> onnx.ModelProto:
    """Swin: cyclic shift in both directions, windows with a mask, and patch merging by strided Slices."""
    net = Graph(opset)
    net.conv(net.input("x", "N", 3, 32, 32), "pe", 3, 32, 4, strides=[4, 4], pads=[0] * 4)
    _reshape(net, "pe", "pf", [0, 32, 64])
    net.node("Transpose", ["pf"], "tok", perm=[0, 2, 1])
    net.node("Shape", ["tok"], "shp")
    net.slice("shp", "B", 0, 0, 1)
    net.node("Concat", ["B", net.constant("g88", [8, 8, 32], np.int64)], "tgt", axis=0)
    net.node("Reshape", ["tok", "tgt"], "grid")
    net.slice("grid", "a1", 1, 2, 2**31)
    net.slice("grid", "a2", 1, 0, 2)
    net.node("Concat", ["a1", "a2"], "rollh", axis=1)
    net.slice("rollh", "c1", 2, 2, 2**31)
    net.slice("rollh", "c2", 2, 0, 2)
    net.node("Concat", ["c1", "c2"], "roll", axis=2)
    _reshape(net, "roll", "w1", [-1, 2, 4, 2, 4, 32])
    net.node("Transpose", ["w1"], "w2", perm=[0, 1, 3, 2, 4, 5])
    _reshape(net, "w2", "win", [-1, 16, 32])
    net.node("Add", [net.node("MatMul", ["win", net.weight("wqkv", 32, 96)], "qkvm"), net.weight("bqkv", 96)], "qkv")
    _reshape(net, "qkv", "qkv5", [-1, 16, 3, 4, 8])
    net.node("Transpose", ["qkv5"], "qkvt", perm=[2, 0, 3, 1, 4])
    for i, n in enumerate("qkv"):
        net.node("Gather", ["qkvt", net.constant(f"i{n}", i, np.int64)], n, axis=0)
    net.node("Transpose", ["k"], "kt", perm=[0, 1, 3, 2])
    net.node("MatMul", [net.node("Mul", ["q", net.constant("s", 8**-0.5)], "qs"), "kt"], "att")
    net.node("Add", ["att", net.weight("rpb", 1, 4, 16, 16)], "attb")
    _reshape(net, "attb", "attw", [-1, 4, 4, 16, 16])
    msk = np.where(np.random.default_rng(0).random((1, 4, 1, 16, 16)) > 0.8, -100.0, 0)
    net.node("Add", ["attw", net.constant("mask", msk)], "attm")
    _reshape(net, "attm", "attf", [-1, 4, 16, 16])
    net.node("Softmax", ["attf"], "p", axis=-1)
    net.node("MatMul", ["p", "v"], "o4")
    net.node("Transpose", ["o4"], "o4t", perm=[0, 2, 1, 3])
    _reshape(net, "o4t", "o3", [-1, 16, 32])
    net.node("Add", [net.node("MatMul", ["o3", net.weight("wp", 32, 32)], "pm"), net.weight("bp", 32)], "proj")
    _reshape(net, "proj", "u1", [-1, 2, 2, 4, 4, 32])
    net.node("Transpose", ["u1"], "u2", perm=[0, 1, 3, 2, 4, 5])
    _reshape(net, "u2", "u3", [-1, 8, 8, 32])
    net.slice("u3", "d1", 1, 6, 2**31)
    net.slice("u3", "d2", 1, 0, 6)
    net.node("Concat", ["d1", "d2"], "back", axis=1)
    _reshape(net, "back", "bt", [-1, 64, 32])
    net.node("Add", ["tok", "bt"], "res")
    _merge_patches(net, _reshape(net, "res", "pg", [-1, 8, 8, 32]))
    net.node("MatMul", ["pmr", net.weight("red", 128, 64)], "merged")
    net.reduce_mean("merged", "mean", [1], keepdims=0)
    net.node("Gemm", ["mean", net.weight("fc", 10, 64), net.weight("fcb", 10)], "out", transB=1)
    return net.model("out", ranks=2)


def mobilevit(opset: int) -> onnx.ModelProto:
    """MobileViT: a picture unfolded into patches, attention over them, folded back and joined."""
    net = Graph(opset)
    net.conv(net.input("x", "N", 3, 16, 16), "c0", 3, 32, strides=[2, 2])
    net.node("Mul", ["c0", net.node("Sigmoid", ["c0"], "s0")], "a0")
    _reshape(net, "a0", "u1", [-1, 2, 4, 2])
    net.node("Transpose", ["u1"], "u2", perm=[0, 2, 1, 3])
    _reshape(net, "u2", "u3", [-1, 32, 16, 4])
    net.node("Transpose", ["u3"], "u4", perm=[0, 3, 2, 1])
    _reshape(net, "u4", "u5", [-1, 16, 32])
    net.node("LayerNormalization", ["u5", net.weight("g", 32), net.weight("b", 32)], "ln")
    _dense(net, "ln", "qkv", 32, 96)
    net.split("qkv", ["q", "k", "v"], 2)
    net.node("Transpose", ["k"], "kt", perm=[0, 2, 1])
    net.node("Softmax", [net.node("Mul", [net.node("MatMul", ["q", "kt"], "s"), net.constant("sc", 0.17)], "ss")], "p", axis=-1)
    net.node("MatMul", ["p", "v"], "av")
    _dense(net, "av", "pr", 32, 32)
    net.node("Add", ["u5", "pr"], "r")
    _reshape(net, "r", "w1", [-1, 4, 16, 32])
    net.node("Transpose", ["w1"], "w2", perm=[0, 3, 2, 1])
    _reshape(net, "w2", "w3", [-1, 4, 2, 2])
    net.node("Transpose", ["w3"], "w4", perm=[0, 2, 1, 3])
    _reshape(net, "w4", "w5", [-1, 32, 8, 8])
    net.node("Concat", ["a0", "w5"], "cc", axis=1)
    net.conv("cc", "out", 64, 32)
    return net.model("out")


def weighted_fusion(opset: int) -> onnx.ModelProto:
    """EfficientDet: features summed with weights that are normalized in the graph, a depthwise convolution behind SiLU."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("x", "N", 3, 16, 16), "c0", 3, 32)], "a")
    net.node("Relu", [net.conv("a", "c1", 32, 32)], "b")
    w = net.constant("w", [0.7, 0.5])
    net.node("Relu", [w], "wr")
    net.node("ReduceSum", ["wr", net.constant("ax", [0], np.int64)], "ws", keepdims=1)
    net.node("Div", ["wr", net.node("Add", ["ws", net.constant("e", 1e-4)], "wse")], "wn")
    net.slice("wn", "w0", 0, 0, 1)
    net.slice("wn", "w1", 0, 1, 2)
    net.node("Add", [net.node("Mul", ["w0", "a"], "wa"), net.node("Mul", ["b", "w1"], "wb")], "f")
    net.node("Mul", ["f", net.node("Sigmoid", ["f"], "sg")], "sw")
    net.conv("sw", "dw", 32, 32, 3, group=32)
    net.conv("dw", "out", 32, 32, 1, pads=[0] * 4)
    return net.model("out")


def pooling_pyramid(opset: int) -> onnx.ModelProto:
    """PSPNet: a pyramid of average poolings, each resized to the Shape of the features."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("x", "N", 3, 24, 24), "c0", 3, 32)], "r")
    outs = ["r"]
    roi = net.constant("roi", np.zeros(0)) if opset < 13 else ""
    sc = net.constant("nosc", np.zeros(0)) if opset < 13 else ""
    for k in (24, 12, 8):
        net.node("AveragePool", ["r"], f"ap{k}", kernel_shape=[k, k], strides=[k, k])
        net.node("Relu", [net.conv(f"ap{k}", f"pc{k}", 32, 16, 1, pads=[0] * 4)], f"pr{k}")
        net.node("Shape", ["r"], f"sh{k}")
        net.slice(f"sh{k}", f"hw{k}", 0, 2, 4)
        net.node("Shape", [f"pr{k}"], f"psh{k}")
        net.slice(f"psh{k}", f"nc{k}", 0, 0, 2)
        net.node("Concat", [f"nc{k}", f"hw{k}"], f"sz{k}", axis=0)
        outs.append(net.node("Resize", [f"pr{k}", roi, sc, f"sz{k}"], f"up{k}", mode="linear"))
    net.node("Concat", outs, "cat", axis=1)
    net.conv("cat", "out", 80, 16)
    return net.model("out")


def mixer(opset: int) -> onnx.ModelProto:
    """MLP-Mixer: products and a Gemm whose first factor is the weight."""
    net = Graph(opset)
    net.conv(net.input("x", "N", 3, 16, 16), "pe", 3, 32, 4, strides=[4, 4], pads=[0] * 4)
    _reshape(net, "pe", "f", [0, 32, 16])
    net.node("Transpose", ["f"], "t", perm=[0, 2, 1])
    net.node("MatMul", [net.weight("wt", 32, 16), "t"], "tm")
    net.node("Relu", ["tm"], "tr")
    net.node("MatMul", [net.weight("wt2", 16, 32), "tr"], "tm2")
    net.node("Add", ["t", "tm2"], "r")
    _dense(net, "r", "ch", 32, 64)
    net.node("Tanh", ["ch"], "th")
    _dense(net, "th", "ch2", 64, 32)
    net.reduce_mean("ch2", "mean", [1], keepdims=0)
    net.node("Gemm", [net.weight("gw", 20, 32), "mean"], "gt", transB=1)
    net.node("Transpose", ["gt"], "out", perm=[1, 0])
    return net.model("out", ranks=2)


def column_reader(opset: int) -> onnx.ModelProto:
    """CRNN without recurrence: uneven pooling, columns to steps by Shape arithmetic, a wide open width."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("x", "N", 1, 32, 24), "c0", 1, 16, strides=[4, 2])], "r")
    net.node("MaxPool", ["r"], "mp", kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 1])
    net.node("Relu", [net.conv("mp", "c1", 16, 32)], "r1")
    net.node("Shape", ["r1"], "sh")
    net.node("Gather", ["sh", net.constant("i", [0, 3], np.int64)], "nw")
    net.slice("nw", "n1", 0, 0, 1)
    net.node("Concat", ["n1", net.constant("ch", [128], np.int64), net.constant("mi", [-1], np.int64)], "tg", axis=0)
    net.node("Reshape", ["r1", "tg"], "f")
    net.node("Transpose", ["f"], "t", perm=[2, 0, 1])
    _dense(net, "t", "l1", 128, 32)
    net.node("Relu", ["l1"], "l1r")
    _dense(net, "l1r", "out", 32, 11)
    return net.model("out", ranks=3)


def _reshape(net: Graph, source: str, output: str, sizes: list[int]) -> str:
    return net.node("Reshape", [source, net.constant(f"{output}.sizes", sizes, np.int64)], output)


def _dense(net: Graph, source: str, output: str, inner: int, outer: int) -> str:
    product = net.node("MatMul", [source, net.weight(f"{output}.weight", inner, outer)], f"{output}.product")
    return net.node("Add", [product, net.weight(f"{output}.bias", outer)], output)


PATTERNS = (
    Pattern(convnext_v2, (4, 5, 8), opsets=(17, 21)),
    Pattern(super_resolution, (6, 7, 7), opsets=(13, 21)),
    Pattern(patch_merging, (4, 9, 43), opsets=(13, 17)),
    Pattern(mobilevit, (3, 8, 23), opsets=(17, 21)),
    Pattern(weighted_fusion, (3, 4, 4), opsets=(13, 17)),
    Pattern(pooling_pyramid, (4, 5, 9), opsets=(11, 13)),
    Pattern(mixer, (5, 6, 9), opsets=(13, 17)),
    Pattern(column_reader, (3, 4, 7), opsets=(17,)),
)
