"""Normalizations and activation functions that stay float between convolutions."""

import numpy as np
import onnx

from tests.quant.patterns.pattern import Graph, Pattern


def group_norm_by_instances(opset: int) -> onnx.ModelProto:
    """PyTorch's GroupNorm: groups by Reshape, InstanceNormalization, back to the Shape from before, gain and shift."""
    net = Graph(opset)
    net.node("Shape", [net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32)], "sizes")
    net.node("Reshape", ["c1", net.constant("groups", [0, 8, -1], np.int64)], "grouped")
    net.node(
        "InstanceNormalization", ["grouped", net.constant("ones", np.ones(8)), net.constant("zeros", np.zeros(8))], "white"
    )
    net.node("Mul", [net.node("Reshape", ["white", "sizes"], "back"), net.weight("gain", 32, 1, 1)], "scaled")
    net.node("Add", ["scaled", net.weight("shift", 32, 1, 1)], "normed")
    net.conv(net.node("Mul", ["normed", net.node("Sigmoid", ["normed"], "gate")], "silu"), "c2", 32, 32)
    net.conv(net.node("Add", ["c2", "c1"], "sum"), "output", 32, 16)
    return net.model("output")


def group_norm_operator(opset: int) -> onnx.ModelProto:
    """GroupNormalization, of whose output ONNX infers nothing."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 32)
    net.node("GroupNormalization", ["c1", net.weight("gain", 32), net.weight("shift", 32)], "normed", num_groups=8)
    net.conv(net.node("Relu", ["normed"], "r1"), "output", 32, 16)
    return net.model("output")


def rare_activations(opset: int) -> onnx.ModelProto:
    """Mish, QuickGELU, Selu, Softsign, Celu (which has no fp16 form), LRN, a norm of channels, a norm of the picture."""
    net = Graph(opset)
    net.conv(net.input("input", "N", 3, 8, 8), "c0", 3, 16)
    net.node("Mul", ["c0", net.node("Tanh", [net.node("Softplus", ["c0"], "softplus")], "tanh")], "mish")
    scaled = net.node("Mul", [net.conv("mish", "c1", 16, 16), net.constant("steep", 1.702)], "scaled")
    net.node("Mul", ["c1", net.node("Sigmoid", [scaled], "gate")], "quick_gelu")
    net.node("Selu", [net.conv("quick_gelu", "c2", 16, 16)], "selu")
    net.node("Softsign", [net.conv("selu", "c3", 16, 16)], "softsign")
    net.node("LRN", [net.node("Celu", [net.conv("softsign", "c4", 16, 16)], "celu")], "lrn", size=3)
    net.node("LpNormalization", [net.conv("lrn", "c5", 16, 16)], "channels", axis=1, p=2)
    net.conv("channels", "c6", 16, 16)
    axes = [net.constant("axes", [2, 3], np.int64)] if opset >= 18 else []
    net.node("ReduceL2", ["c6", *axes], "length", **({} if axes else {"axes": [2, 3]}))
    net.conv(net.node("Div", ["c6", "length"], "picture"), "output", 16, 16)
    return net.model("output")


PATTERNS = (
    Pattern(group_norm_by_instances, (2, 4, 4), opsets=(11, 17)),
    Pattern(group_norm_operator, (1, 2, 2), opsets=(21, 24)),
    Pattern(rare_activations, (7, 8, 8), opsets=(13, 21)),
)
