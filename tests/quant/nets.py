"""Small ONNX nets, one for each way in which real graphs are made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


class Net:
    """Collects nodes and weights; every method returns the name of the tensor that it made."""

    def __init__(self, shape: Sequence[int | str], opset: int = 17) -> None:
        self.random = np.random.default_rng(0)
        self.opset = opset
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.normal(0, 0.2, shape))

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def conv(self, source: str, output: str, inner: int, outer: int, kernel: int = 3, **attributes: Any) -> str:
        weight = self.weight(f"{output}.weight", outer, inner, kernel, kernel)
        bias = self.weight(f"{output}.bias", outer)
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", [source, weight, bias], output, **attributes)

    def batchnorm(self, source: str, output: str, channels: int) -> str:
        names = [self.constant(f"{output}.{i}", self.random.uniform(0.5, 1.5, channels)) for i in range(4)]
        return self.node("BatchNormalization", [source, *names], output)

    def model(self, outputs: dict[str, Sequence[int | str]], ir_version: int = 8) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)


def resnet(opset: int = 17) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu, one identity shortcut and one with a convolution, pooling, Gemm."""
    net = Net(["N", 3, 16, 16], opset)
    net.node("Relu", [net.batchnorm(net.conv("input", "stem", 3, 16), "stem_bn", 16)], "stem_relu")
    net.node("Relu", [net.batchnorm(net.conv("stem_relu", "a1", 16, 16), "a1_bn", 16)], "a1_relu")
    net.batchnorm(net.conv("a1_relu", "a2", 16, 16), "a2_bn", 16)
    net.node("Relu", [net.node("Add", ["a2_bn", "stem_relu"], "a_sum")], "a_out")
    net.node("Relu", [net.conv("a_out", "b1", 16, 32, strides=[2, 2])], "b1_relu")
    net.conv("b1_relu", "b2", 32, 32)
    net.conv("a_out", "b_short", 16, 32, 1, strides=[2, 2])
    net.node("Relu", [net.node("Add", ["b2", "b_short"], "b_sum")], "b_out")
    net.node("Flatten", [net.node("GlobalAveragePool", ["b_out"], "pool")], "flat")
    net.node("Gemm", ["flat", net.weight("fc.weight", 10, 32), net.weight("fc.bias", 10)], "output", transB=1)
    return net.model({"output": ["N", 10]})


def concat_net() -> onnx.ModelProto:
    """Branches, MaxPool, AveragePool, Concat, nearest Resize, two outputs of which one feeds on."""
    net = Net(["N", 3, 16, 16])
    net.node("Relu", [net.conv("input", "stem", 3, 16)], "trunk")
    net.node("MaxPool", ["trunk"], "max", kernel_shape=[2, 2], strides=[2, 2])
    net.node("AveragePool", ["trunk"], "mean", kernel_shape=[2, 2], strides=[2, 2])
    net.node("Concat", ["max", "mean"], "joined", axis=1)
    net.node("Relu", [net.conv("joined", "c", 32, 32)], "deep")
    net.node("Resize", ["deep", "", net.constant("scales", [1, 1, 2, 2])], "up", mode="nearest")
    net.conv("up", "heat", 32, 16)
    return net.model({"deep": ["N", 32, 8, 8], "heat": ["N", 16, 16, 16]})


def mobile_net() -> onnx.ModelProto:
    """Depthwise and pointwise convolutions, HardSwish by hand, squeeze-excite, SiLU, an explicit zero Pad."""
    net = Net(["N", 3, 16, 16])
    pads = net.constant("pads", [0, 0, 0, 0, 0, 0, 1, 1], np.int64)
    net.node("Pad", ["input", pads], "padded")
    net.conv("padded", "stem", 3, 16, pads=[0, 0, 0, 0], strides=[2, 2])
    net.node("HardSwish", ["stem"], "swished")
    net.conv("swished", "wide", 1, 16, group=16)
    net.node("Mul", ["wide", net.node("Sigmoid", ["wide"], "gate")], "silu")
    net.node("GlobalAveragePool", ["silu"], "squeezed")
    net.node("Relu", [net.conv("squeezed", "reduce", 16, 4, 1)], "reduced")
    net.node("HardSigmoid", [net.conv("reduced", "expand", 4, 16, 1)], "excited")
    net.node("Mul", ["silu", "excited"], "scaled")
    net.conv("scaled", "project", 16, 32, 1)
    return net.model({"project": ["N", 32, 8, 8]})


def decoder_net() -> onnx.ModelProto:
    """ConvTranspose, plain and with BatchNorm behind it."""
    net = Net(["N", 16, 8, 8])
    net.node("Relu", [net.conv("input", "c", 16, 16)], "encoded")
    net.node("ConvTranspose", ["encoded", net.weight("up.weight", 16, 16, 2, 2)], "up", strides=[2, 2])
    net.node("Relu", [net.batchnorm("up", "up_bn", 16)], "up_relu")
    net.node("ConvTranspose", ["up_relu", net.weight("last.weight", 16, 16, 2, 2)], "output", strides=[2, 2])
    return net.model({"output": ["N", 16, 32, 32]})


def attention_net() -> onnx.ModelProto:
    """LayerNormalization, MatMul with weights and bias, a product of activations, Softmax, a residual Add."""
    net = Net(["N", 16, 32])
    net.node("LayerNormalization", ["input", net.weight("g", 32), net.weight("b", 32)], "normed")
    for part in ("q", "k", "v"):
        net.node("MatMul", ["normed", net.weight(f"{part}.weight", 32, 32)], f"{part}_raw")
        net.node("Add", [f"{part}_raw", net.weight(f"{part}.bias", 32)], part)
    net.node("Transpose", ["k"], "k_turned", perm=[0, 2, 1])
    net.node("Softmax", [net.node("MatMul", ["q", "k_turned"], "scores")], "attention", axis=-1)
    net.node("MatMul", ["attention", "v"], "mixed")
    net.node("MatMul", ["mixed", net.weight("o.weight", 32, 32)], "projected")
    net.node("Add", ["projected", "input"], "output")
    return net.model({"output": ["N", 16, 32]})


def nhwc_net() -> onnx.ModelProto:
    """An NHWC input, Transposes around the convolutions."""
    net = Net(["N", 16, 16, 3])
    net.node("Transpose", ["input"], "nchw", perm=[0, 3, 1, 2])
    net.node("Relu", [net.conv("nchw", "c1", 3, 16)], "r1")
    net.node("Transpose", ["r1"], "nhwc", perm=[0, 2, 3, 1])
    net.node("Transpose", ["nhwc"], "back", perm=[0, 3, 1, 2])
    net.node("Transpose", [net.conv("back", "c2", 16, 16)], "output", perm=[0, 2, 3, 1])
    return net.model({"output": ["N", 16, 16, 16]})


def hidden_weights_net() -> onnx.ModelProto:
    """Weights behind Constant, Identity, Cast and Transpose, one shared by two convolutions; shape arithmetic."""
    net = Net(["N", 16, 8, 8])
    value = numpy_helper.from_array(net.random.normal(0, 0.2, (16, 16, 1, 1)).astype(np.float64), "w64")
    net.nodes.append(helper.make_node("Constant", [], ["w64"], name="w64_node", value=value))
    net.node("Identity", [net.node("Cast", ["w64"], "w32", to=FLOAT)], "shared")
    net.node("Conv", ["input", "shared"], "c1")
    net.node("Conv", [net.node("Relu", ["c1"], "r1"), "shared"], "c2")
    net.node("Identity", ["c2"], "c2_same")
    net.node("Dropout", ["c2_same"], "dropped")
    net.node("Gather", [net.node("Shape", ["dropped"], "shape"), net.constant("zero", 0, np.int64)], "batch", axis=0)
    net.node("Unsqueeze", ["batch", net.constant("axes", [0], np.int64)], "batch_1d")
    net.node("Concat", ["batch_1d", net.constant("rest", [-1], np.int64)], "target", axis=0)
    net.node("Reshape", ["dropped", "target"], "flat")
    net.node("Transpose", [net.weight("fc", 10, 1024)], "fc_turned", perm=[1, 0])
    net.node("MatMul", ["flat", "fc_turned"], "output")
    return net.model({"output": ["N", 10]})


def old_net() -> onnx.ModelProto:
    """Opset 9 and IR 3: weights are graph inputs, Clip and Upsample have no inputs for their numbers."""
    net = Net(["N", 3, 8, 8], opset=9)
    net.batchnorm(net.conv("input", "c1", 3, 16), "bn", 16)
    net.node("Clip", ["bn"], "clipped", min=0.0, max=6.0)
    net.node("Dropout", ["clipped"], "dropped")
    net.node("Pad", ["dropped"], "padded", pads=[0, 0, 1, 1, 0, 0, 1, 1])
    net.conv("padded", "c2", 16, 16, pads=[0, 0, 0, 0])
    net.node("Flatten", [net.node("GlobalAveragePool", ["c2"], "pool")], "flat")
    net.node("Gemm", ["flat", net.weight("fc", 16, 10), net.weight("fc_bias", 10)], "logits")
    net.node("Softmax", ["logits"], "output")
    model = net.model({"output": ["N", 10]}, ir_version=3)
    for weight in net.weights:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, FLOAT, list(weight.dims)))
    return model


def silu_net() -> onnx.ModelProto:
    """SiLU behind every convolution, Add and Concat of activated branches, a ConvTranspose with groups."""
    net = Net(["N", 3, 16, 16])
    net.node("Mul", [net.conv("input", "c1", 3, 32), net.node("Sigmoid", ["c1"], "g1")], "s1")
    net.node("Mul", [net.conv("s1", "c2", 32, 32), net.node("Sigmoid", ["c2"], "g2")], "s2")
    net.node("Concat", [net.node("Add", ["s1", "s2"], "sum"), "s1"], "joined", axis=1)
    net.node("ConvTranspose", ["joined", net.weight("up.weight", 64, 16, 2, 2)], "output", group=2, strides=[2, 2])
    return net.model({"output": ["N", 32, 32, 32]})


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": resnet,
    "concat": concat_net,
    "mobile": mobile_net,
    "decoder": decoder_net,
    "attention": attention_net,
    "nhwc": nhwc_net,
    "hidden-weights": hidden_weights_net,
    "old": old_net,
    "silu": silu_net,
    "resnet-13": lambda: resnet(13),
    "resnet-24": lambda: resnet(24),
}


def images(model: onnx.ModelProto, count: int = 4) -> np.ndarray:
    """Return float32[count, ...] that fits the model's first input, the same every time."""
    sizes = [d.dim_value or count for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).normal(0, 1, sizes).astype(np.float32)


Images = np.ndarray | Mapping[str, np.ndarray]


def run(
    model: onnx.ModelProto, images: Images, tensors: Sequence[str] = (), is_optimized: bool = True
) -> dict[str, np.ndarray]:
    """Return the outputs of model in ONNX Runtime, and the tensors named; an array feeds the first input."""
    tapped = onnx.ModelProto.FromString(model.SerializeToString())
    known = {value.name for value in tapped.graph.output}
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in tensors if n not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not is_optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: images} if isinstance(images, np.ndarray) else dict(images))
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def measured_scales(model: onnx.ModelProto, images: Images, tensors: Sequence[str]) -> dict[str, np.float32]:
    """Return scale = absmax / 127 of each tensor on the images."""
    given = {model.graph.input[0].name: images} if isinstance(images, np.ndarray) else dict(images)
    values = run(model, images, [name for name in tensors if name not in given]) | given
    return {name: np.float32(np.abs(values[name]).max() / 127) for name in tensors}
