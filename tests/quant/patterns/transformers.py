"""Blocks of vision transformers and what came after, in the ways in which exporters spell them."""

import numpy as np
import onnx

from tests.quant.patterns.pattern import Graph, Pattern

_TOKENS, _WIDTH, _HEADS = 16, 32, 4


def convnext(opset: int) -> onnx.ModelProto:
    """ConvNeXt: a patch stem, a wide depthwise convolution, LayerNorm and an MLP in NHWC, a gain, the shortcut."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 16, 16), "stem", 3, _WIDTH, 4, strides=[4, 4], pads=[0] * 4)
    net.conv("stem", "spread", _WIDTH, _WIDTH, 7, group=_WIDTH)
    _layer_norm(net, net.node("Transpose", ["spread"], "rows", perm=[0, 2, 3, 1]), "normed")
    _gelu(net, _dense(net, "normed", "inner", 2 * _WIDTH), "gelu")
    net.node("Mul", [net.weight("gain", _WIDTH), _dense(net, "gelu", "outer", _WIDTH, 2 * _WIDTH)], "scaled")
    net.node("Add", ["stem", net.node("Transpose", ["scaled"], "back", perm=[0, 3, 1, 2])], "sum")
    net.reduce_mean("sum", "pooled", [-1, -2], keepdims=0)
    net.node("Gemm", ["pooled", net.weight("fc", 20, _WIDTH), net.weight("fcb", 20)], "output", transB=1)
    return net.model("output", ranks=2)


def shifted_windows(opset: int) -> onnx.ModelProto:
    """Swin: torch.roll as two Slices and a Concat, windows by Reshape and Transpose, Split heads, a position bias."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 16, 16), "patches", 3, _WIDTH, 2, strides=[2, 2], pads=[0] * 4)
    net.node("Transpose", ["patches"], "rows", perm=[0, 2, 3, 1])
    halves = [net.slice("rows", "late", 1, 2, 8), net.slice("rows", "early", 1, 0, 2)]
    net.node("Concat", halves, "rolled", axis=1)
    _reshape(net, "rolled", "grid", [-1, 2, 4, 2, 4, _WIDTH])
    net.node("Transpose", ["grid"], "grouped", perm=[0, 1, 3, 2, 4, 5])
    _reshape(net, "grouped", "windows", [-1, _TOKENS, _WIDTH])
    net.node("MatMul", ["windows", net.weight("wqkv", _WIDTH, 3 * _WIDTH)], "qkv")
    _reshape(net, "qkv", "parted", [-1, _TOKENS, 3, 2, _WIDTH // 2])
    net.split(net.node("Transpose", ["parted"], "heads", perm=[2, 0, 3, 1, 4]), ["q1", "k1", "v1"], 0)
    q, k, v = (net.squeeze(f"{name}1", name, [0]) for name in "qkv")
    net.node("Mul", [q, net.constant("scale", 0.25)], "q_scaled")
    net.node("MatMul", ["q_scaled", net.node("Transpose", [k], "k_t", perm=[0, 1, 3, 2])], "scores")
    net.node("Add", ["scores", net.weight("positions", 1, 2, _TOKENS, _TOKENS)], "biased")
    net.node("MatMul", [net.node("Softmax", ["biased"], "shares", axis=-1), v], "mixed")
    _reshape(net, net.node("Transpose", ["mixed"], "mixed_t", perm=[0, 2, 1, 3]), "joined", [-1, _TOKENS, _WIDTH])
    net.node("MatMul", ["joined", net.weight("wo", _WIDTH, _WIDTH)], "out")
    _reshape(net, "out", "out_grid", [-1, 2, 2, 4, 4, _WIDTH])
    _reshape(net, net.node("Transpose", ["out_grid"], "ungrouped", perm=[0, 1, 3, 2, 4, 5]), "picture", [-1, 8, 8, _WIDTH])
    net.node("Add", ["rows", "picture"], "sum")
    net.conv(net.node("Transpose", ["sum"], "sum_t", perm=[0, 3, 1, 2]), "output", _WIDTH, 16)
    return net.model("output")


def einsum_attention(opset: int) -> onnx.ModelProto:
    """Attention whose two products are Einsums: these stay float, what has weights does not."""
    net = Graph(opset)
    source = net.input("input", "N", _TOKENS, _WIDTH)
    for name in "qkv":
        net.node("MatMul", [source, net.weight(f"w{name}", _WIDTH, _WIDTH)], name)
        _reshape(net, name, f"{name}_heads", [0, _TOKENS, _HEADS, _WIDTH // _HEADS])
    net.node("Einsum", ["q_heads", "k_heads"], "scores", equation="bqhd,bkhd->bhqk")
    net.node("Softmax", ["scores"], "shares", axis=-1)
    net.node("Einsum", ["shares", "v_heads"], "mixed", equation="bhqk,bkhd->bqhd")
    net.node("MatMul", [_reshape(net, "mixed", "joined", [0, _TOKENS, _WIDTH]), net.weight("wo", _WIDTH, _WIDTH)], "out")
    net.node("Add", ["out", source], "output")
    return net.model("output", ranks=3)


def scaled_dot_product(opset: int) -> onnx.ModelProto:
    """PyTorch's scaled_dot_product_attention: the scale comes from a Shape, and its root goes to both q and k."""
    net = Graph(opset)
    source = net.input("input", "N", _TOKENS, _WIDTH)
    _reshape(net, _dense(net, source, "qkv", 3 * _WIDTH), "parted", [0, _TOKENS, 3, _HEADS, _WIDTH // _HEADS])
    net.node("Transpose", ["parted"], "heads", perm=[2, 0, 3, 1, 4])
    for place, name in enumerate("qkv"):
        net.node("Gather", ["heads", net.constant(f"{name}_at", place, np.int64)], name, axis=0)
    depth = net.slice(net.node("Shape", ["q"], "sizes"), "depth", 0, 3, 4)
    root = net.node("Sqrt", [net.node("Cast", [depth], "depth_float", to=onnx.TensorProto.FLOAT)], "depth_root")
    scale = net.node("Sqrt", [net.node("Div", [net.constant("one", [1.0]), root], "scale")], "scale_root")
    net.node("Mul", ["q", scale], "q_scaled")
    net.node("Mul", [net.node("Transpose", ["k"], "k_t", perm=[0, 1, 3, 2]), scale], "k_scaled")
    net.node("Softmax", [net.node("MatMul", ["q_scaled", "k_scaled"], "scores")], "shares", axis=-1)
    net.node("Transpose", [net.node("MatMul", ["shares", "v"], "mixed")], "mixed_t", perm=[0, 2, 1, 3])
    net.node("MatMul", [_reshape(net, "mixed_t", "joined", [0, 0, -1]), net.weight("wo", _WIDTH, _WIDTH)], "output")
    return net.model("output", ranks=3)


def attention_operator(opset: int) -> onnx.ModelProto:
    """Attention and RMSNormalization as operators, which stay float, between products with weights."""
    net = Graph(opset)
    source = net.input("input", "N", _TOKENS, _WIDTH)
    parts = [net.node("MatMul", [source, net.weight(f"w{name}", _WIDTH, _WIDTH)], name) for name in "qkv"]
    net.node("Attention", parts, "mixed", q_num_heads=_HEADS, kv_num_heads=_HEADS)
    net.node("MatMul", ["mixed", net.weight("wo", _WIDTH, _WIDTH)], "out")
    net.node("RMSNormalization", ["out", net.weight("gain", _WIDTH)], "normed", axis=-1)
    net.node("MatMul", ["normed", net.weight("w2", _WIDTH, _WIDTH)], "output")
    return net.model("output", ranks=3)


def _reshape(net: Graph, source: str, output: str, sizes: list[int]) -> str:
    return net.node("Reshape", [source, net.constant(f"{output}.sizes", sizes, np.int64)], output)


def _dense(net: Graph, source: str, output: str, outer: int, inner: int = _WIDTH) -> str:
    product = net.node("MatMul", [source, net.weight(f"{output}.weight", inner, outer)], f"{output}.product")
    return net.node("Add", [net.weight(f"{output}.bias", outer), product], output)


def _layer_norm(net: Graph, source: str, output: str) -> str:
    gain, shift = net.weight(f"{output}.gain", _WIDTH), net.weight(f"{output}.shift", _WIDTH)
    if net.opset >= 17:
        return net.node("LayerNormalization", [source, gain, shift], output, axis=-1)
    net.node("Sub", [source, net.reduce_mean(source, f"{output}.mean", [-1])], f"{output}.centred")
    square = net.node("Pow", [f"{output}.centred", net.constant(f"{output}.two", 2.0)], f"{output}.square")
    variance = net.reduce_mean(square, f"{output}.variance", [-1])
    root = net.node(
        "Sqrt", [net.node("Add", [variance, net.constant(f"{output}.eps", 1e-6)], f"{output}.safe")], f"{output}.root"
    )
    whitened = net.node("Div", [f"{output}.centred", root], f"{output}.white")
    return net.node("Add", [net.node("Mul", [whitened, gain], f"{output}.scaled"), shift], output)


def _gelu(net: Graph, source: str, output: str) -> str:
    inner = net.node("Erf", [net.node("Div", [source, net.constant("root2", 1.4142135)], "gelu.in")], "gelu.erf")
    gate = net.node("Add", [inner, net.constant("one", 1.0)], "gelu.gate")
    return net.node("Mul", [net.node("Mul", [source, gate], "gelu.twice"), net.constant("half", 0.5)], output)


PATTERNS = (
    Pattern(convnext, (4, 5, 8), opsets=(13, 17, 21)),
    Pattern(shifted_windows, (3, 8, 25), opsets=(13, 18)),
    Pattern(einsum_attention, (2, 2, 3), opsets=(13, 17)),
    Pattern(scaled_dot_product, (2, 6, 11), opsets=(14, 18)),
    Pattern(attention_operator, (3, 3, 3), opsets=(23, 24)),
)
