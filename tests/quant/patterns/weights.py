"""Weights and where they hide."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.quant.patterns.pattern import FLOAT, OPSETS, Graph, Pattern


def hidden_weights(opset: int) -> onnx.ModelProto:
    """Weights behind Constant, Identity, Cast from fp16 and fp64, Transpose, Reshape, and arithmetic."""
    net = Graph(opset)
    value = numpy_helper.from_array(net.random.normal(0, 0.2, (16, 3, 3, 3)), "v64")
    net.nodes.append(helper.make_node("Constant", [], ["v64"], name="v64_node", value=value))
    net.node("Identity", [net.node("Cast", ["v64"], "v32", to=FLOAT)], "w1")
    net.node("Relu", [net.node("Conv", [net.input("input", "N", 3, 8, 8), "w1"], "c1", pads=[1] * 4)], "r1")
    half = net.constant("half", net.random.normal(0, 0.2, (16, 16, 3, 3)), np.float16)
    net.node("Conv", ["r1", net.node("Cast", [half], "w2", to=FLOAT)], "c2", pads=[1] * 4)
    net.node("Transpose", [net.weight("hwio", 3, 3, 16, 16)], "w3", perm=[3, 2, 0, 1])
    net.node("Conv", ["c2", "w3"], "c3", pads=[1] * 4)
    net.node("Reshape", [net.weight("rows", 32, 16), net.constant("kernel", [32, 16, 1, 1], np.int64)], "w4")
    net.node("Conv", ["c3", "w4"], "c4")
    scaled = net.node("Mul", [net.weight("raw", 16, 32, 1, 1), net.constant("equal", 1.5)], "w5")
    net.node("Conv", ["c4", scaled], "output")
    return net.model("output")


def weight_norm(opset: int) -> onnx.ModelProto:
    """Weight normalization left in the graph: g * v / |v|."""
    net = Graph(opset)
    direction = net.weight("v", 16, 3, 3, 3)
    net.node("ReduceL2", [direction], "length", axes=[1, 2, 3])
    net.node("Mul", [net.node("Div", [direction, "length"], "unit"), net.weight("g", 16, 1, 1, 1)], "w")
    net.node("Conv", [net.input("input", "N", 3, 8, 8), "w"], "c1", pads=[1] * 4)
    net.conv(net.node("Relu", ["c1"], "r1"), "output", 16, 16)
    return net.model("output")


def shared_weights(opset: int) -> onnx.ModelProto:
    """One weight for two convolutions, one for a Gemm and a MatMul along different axes, one bias for two."""
    net = Graph(opset)
    bias = net.weight("bias", 16)
    net.node(
        "Relu",
        [net.node("Conv", [net.input("input", "N", 16, 4, 4), net.weight("w", 16, 16, 3, 3), bias], "c1", pads=[1] * 4)],
        "r1",
    )
    net.node("Relu", [net.node("Conv", ["r1", "w", bias], "c2", pads=[1] * 4)], "r2")
    net.node("Flatten", [net.node("GlobalAveragePool", ["r2"], "pool")], "flat")
    net.node("Gemm", ["flat", net.weight("square", 16, 16), bias], "g", transB=1)
    net.node("MatMul", [net.node("Relu", ["g"], "rg"), "square"], "output")
    return net.model("output", ranks=2)


def computed_weights(opset: int) -> onnx.ModelProto:
    """A convolution whose weights an input makes; it stays float."""
    net = Graph(opset)
    net.node("Relu", [net.conv(net.input("input", 1, 3, 8, 8), "c1", 3, 16)], "r1")
    net.node("Conv", ["r1", net.input("kernel", 16, 16, 3, 3)], "dynamic", pads=[1] * 4)
    net.conv("dynamic", "output", 16, 16)
    return net.model("output")


def weight_as_output(opset: int) -> onnx.ModelProto:
    """A weight that is an output of the model as well, and one that Softmax reads."""
    net = Graph(opset)
    net.node("Relu", [net.node("Conv", [net.input("input", "N", 3, 8, 8), net.weight("w", 16, 3, 3, 3)], "c1")], "r1")
    net.node("Identity", ["w"], "shown")
    net.conv("r1", "output", 16, 16)
    return net.model("output", "shown")


def old_inputs(opset: int) -> onnx.ModelProto:
    """Before IR 4: every weight is a graph input as well."""
    net = Graph(opset)
    net.node("Relu", [net.batchnorm(net.conv(net.input("input", "N", 3, 8, 8), "c1", 3, 16), "b1", 16)], "r1")
    net.node("Dropout", ["r1"], "dropped")
    net.conv("dropped", "output", 16, 16)
    model = net.model("output")
    for tensor in net.weights:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.ir_version = 3
    return model


def half_model(opset: int) -> onnx.ModelProto:
    """A model that computes in fp16 behind a Cast: its convolutions are float16."""
    net = Graph(opset)
    net.node("Cast", [net.input("input", "N", 3, 8, 8)], "x", to=TensorProto.FLOAT16)
    weights = [net.constant(f"w{i}", net.random.normal(0, 0.2, (16, n, 3, 3)), np.float16) for i, n in ((1, 3), (2, 16))]
    net.node("Relu", [net.node("Conv", ["x", weights[0]], "c1", pads=[1] * 4)], "r1")
    net.node("Cast", [net.node("Conv", ["r1", weights[1]], "c2", pads=[1] * 4)], "output", to=FLOAT)
    return net.model("output")


PATTERNS = (
    Pattern(hidden_weights, (4, 5, 5), opsets=OPSETS),
    Pattern(weight_norm, (1, 2, 2), opsets=(9, 11, 13, 17)),
    Pattern(shared_weights, (4, 4, 6), opsets=OPSETS),
    Pattern(computed_weights, (1, 2, 2), floats=("dynamic",), opsets=OPSETS),
    Pattern(weight_as_output, (1, 2, 2), opsets=OPSETS),
    Pattern(old_inputs, (1, 2, 2), opsets=(9,)),
)
