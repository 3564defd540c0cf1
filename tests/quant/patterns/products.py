"""Matrix products: Gemm in all its forms, MatMul, attention, what surrounds them."""

import numpy as np
import onnx

from tests.quant.patterns.pattern import OPSETS, Graph, Pattern


def gemm_forms(opset: int) -> onnx.ModelProto:
    """Gemm with alpha, beta, transA, transB, and biases of several shapes."""
    net = Graph(opset)
    net.node(
        "Gemm",
        [net.input("input", 16, 32), net.weight("w1", 24, 32), net.weight("b1", 24)],
        "g1",
        alpha=0.5,
        beta=2.0,
        transB=1,
    )
    net.node("Gemm", [net.node("Relu", ["g1"], "r1"), net.weight("w2", 16, 40), net.weight("b2", 24, 40)], "g2", transA=1)
    net.node("Gemm", ["g2", net.weight("w3", 40, 20), net.weight("b3", 1)], "g3", alpha=2.0)
    net.node("Gemm", ["g3", net.weight("w4", 20, 18), net.weight("b4", 24, 1)], "output", beta=0.5)
    return net.model("output", ranks=2)


def gemm_of_activations(opset: int) -> onnx.ModelProto:
    """Gemm of two activations; one whose bias is an activation."""
    net = Graph(opset)
    net.node("Gemm", [net.input("input", 16, 32), net.weight("w1", 32, 32), net.weight("b1", 32)], "g1")
    net.node("Gemm", ["input", "g1", net.weight("b2", 16)], "g2", transB=1)
    net.node("Gemm", ["g2", net.weight("w3", 16, 32), "g1"], "output")
    return net.model("output", ranks=2)


def dense_head(opset: int) -> onnx.ModelProto:
    """MatMul and Add behind pooling that is flattened by shape arithmetic, with a dynamic batch; Softmax."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32)], "r1")
    net.flatten_batch(net.node("GlobalAveragePool", ["r1"], "pool"), "flat")
    net.node("Add", [net.node("MatMul", ["flat", net.weight("w", 32, 10)], "m"), net.weight("b", 10)], "logits")
    net.node("Softmax", ["logits"], "output", axis=1)
    return net.model("output", ranks=2)


def attention(opset: int) -> onnx.ModelProto:
    """A transformer block by hand: normalization with Pow and Sqrt, heads, scaling, Softmax, Erf GELU, residual Adds."""
    net = Graph(opset)
    x = net.input("input", "N", 16, 64)
    normed = _layer_norm(net, x, "n1")
    for part in ("q", "k", "v"):
        net.node(
            "Add",
            [net.node("MatMul", [normed, net.weight(f"{part}.w", 64, 64)], f"{part}.m"), net.weight(f"{part}.b", 64)],
            part,
        )
        net.node("Reshape", [part, net.constant(f"{part}.heads", [0, 16, 4, 16], np.int64)], f"{part}.r")
        net.node("Transpose", [f"{part}.r"], f"{part}.t", perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
    net.node("Div", [net.node("MatMul", ["q.t", "k.t"], "scores"), net.constant("root", 4.0)], "scaled")
    net.node("MatMul", [net.node("Softmax", ["scaled"], "weights", axis=3), "v.t"], "mixed")
    net.node("Transpose", ["mixed"], "mixed.t", perm=[0, 2, 1, 3])
    net.node("Reshape", ["mixed.t", net.constant("merged", [0, 16, 64], np.int64)], "mixed.r")
    net.node("Add", [net.node("MatMul", ["mixed.r", net.weight("o.w", 64, 64)], "o.m"), net.weight("o.b", 64)], "o")
    net.node("Add", [x, "o"], "x1")
    net.node(
        "Add",
        [net.node("MatMul", [_layer_norm(net, "x1", "n2"), net.weight("u.w", 64, 128)], "u.m"), net.weight("u.b", 128)],
        "u",
    )
    half = net.node("Erf", [net.node("Div", ["u", net.constant("sqrt2", 2**0.5)], "u.d")], "u.e")
    net.node("Mul", ["u", net.node("Add", [half, net.constant("one", 1.0)], "u.a")], "u.g")
    net.node("Mul", ["u.g", net.constant("half", 0.5)], "gelu")
    net.node("Add", [net.node("MatMul", ["gelu", net.weight("d.w", 128, 64)], "d.m"), net.weight("d.b", 64)], "d")
    net.node("Add", ["x1", "d"], "output")
    return net.model("output", ranks=3)


def _layer_norm(net: Graph, source: str, name: str) -> str:
    centred = net.node("Sub", [source, net.reduce_mean(source, f"{name}.mean", [2])], f"{name}.c")
    square = net.node("Pow", [centred, net.constant(f"{name}.two", 2.0)], f"{name}.p")
    variance = net.node("Add", [net.reduce_mean(square, f"{name}.var", [2]), net.constant(f"{name}.eps", 1e-5)], f"{name}.v")
    normal = net.node("Div", [centred, net.node("Sqrt", [variance], f"{name}.s")], f"{name}.d")
    return net.node(
        "Add", [net.node("Mul", [normal, net.weight(f"{name}.g", 64)], f"{name}.m"), net.weight(f"{name}.b", 64)], name
    )


def modern_attention(opset: int) -> onnx.ModelProto:
    """The same with LayerNormalization; a class token joined in front; a fused QKV product."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 16, 16), "patch", 3, 32, 4, strides=[4, 4], pads=[0] * 4)
    net.node("Reshape", ["patch", net.constant("tokens", [0, 32, 16], np.int64)], "rows")
    net.node("Transpose", ["rows"], "patches", perm=[0, 2, 1])
    net.node("Shape", ["patches"], "shape")
    net.slice("shape", "batch", 0, 0, 1)
    net.node("Concat", ["batch", net.constant("rest", [1, 32], np.int64)], "wanted", axis=0)
    net.node("Expand", [net.weight("cls", 1, 1, 32), "wanted"], "token")
    net.node("Concat", ["token", "patches"], "joined", axis=1)
    net.node("Add", ["joined", net.weight("place", 1, 17, 32)], "x")
    net.node("LayerNormalization", ["x", net.weight("g", 32), net.weight("b", 32)], "normed")
    net.node("Add", [net.node("MatMul", ["normed", net.weight("qkv.w", 32, 96)], "qkv.m"), net.weight("qkv.b", 96)], "qkv")
    q, k, v = net.split("qkv", ["q", "k", "v"], 2)
    net.node("MatMul", [q, net.node("Transpose", [k], "kt", perm=[0, 2, 1])], "scores")
    net.node("MatMul", [net.node("Softmax", ["scores"], "weights", axis=-1), v], "mixed")
    net.node("Add", ["x", net.node("MatMul", ["mixed", net.weight("o.w", 32, 32)], "o")], "x1")
    net.node("Gather", ["x1", net.constant("first", 0, np.int64)], "top", axis=1)
    net.node("Gemm", ["top", net.weight("fc", 32, 10), net.weight("fcb", 10)], "output")
    return net.model("output", ranks=2)


def gelu(opset: int) -> onnx.ModelProto:
    """Gelu as one operator, between products with weights."""
    net = Graph(opset)
    net.node("MatMul", [net.input("input", "N", 16, 32), net.weight("w1", 32, 64)], "m1")
    net.node("MatMul", [net.node("Gelu", ["m1"], "g"), net.weight("w2", 64, 32)], "m2")
    net.node("Add", ["input", "m2"], "output")
    return net.model("output", ranks=3)


def matmul_forms(opset: int) -> onnx.ModelProto:
    """Weights on the left, batched weights, a vector, a shape that older opsets do not tell."""
    net = Graph(opset)
    net.input("input", "N", 16, 32)
    net.node("MatMul", [net.weight("left", 24, 16), "input"], "m1")
    net.node("MatMul", ["m1", net.weight("batched", 1, 32, 20)], "m2")
    net.node("MatMul", ["m2", net.weight("column", 20, 1)], "m3")
    net.node("MatMul", [net.flatten_batch("m2", "loose"), net.weight("after", 480, 16)], "m4")
    return net.model("m3", "m4", ranks=[3, 2])


PATTERNS = (
    Pattern(gemm_forms, (4, 4, 4), opsets=OPSETS),
    Pattern(gemm_of_activations, (2, 3, 3), opsets=OPSETS),
    Pattern(dense_head, (1, 2, 3), opsets=OPSETS),
    Pattern(attention, (4, 8, 16), opsets=(13, 17, 21, 24)),
    Pattern(modern_attention, (3, 8, 11), opsets=(17, 21, 24)),
    Pattern(gelu, (2, 2, 2), opsets=(21, 24)),
    Pattern(matmul_forms, (3, 3, 4), floats=("m3",), opsets=OPSETS),
)
