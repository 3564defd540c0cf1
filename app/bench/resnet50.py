"""A ResNet-50 (He et al. 2015, the variant with the stride in the 3x3) with random weights and BatchNorm folded.

Of its usual width it is 102 MB large; a thin one has the same layers and fewer channels.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Blocks of each stage. The inner channels double from stage to stage; a stage's output has four times as many.
_BLOCKS = (3, 4, 6, 3)
WIDTH = 64


@dataclass
class _Net:
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(50))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"/{name}", **attributes))
        return name

    def weight(self, shape: tuple[int, ...], gain: float) -> str:
        name = f"weight_{len(self.weights)}"
        deviation = gain / np.sqrt(np.prod(shape[1:]))
        values = (self.random.standard_normal(shape, np.float32) * np.float32(deviation)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def bias(self, channels: int) -> str:
        name = f"bias_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.zeros(channels, np.float32), name))
        return name

    def conv(self, data: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        weight = self.weight((channels[1], channels[0], kernel, kernel), np.sqrt(2))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self.add("Conv", data, weight, self.bias(channels[1]), **sizes)

    def block(self, data: str, channels: tuple[int, int], stride: int) -> str:
        inside, outside = channels[1], 4 * channels[1]
        first = self.add("Relu", self.conv(data, (channels[0], inside), 1))
        second = self.add("Relu", self.conv(first, (inside, inside), 3, stride))
        third = self.conv(second, (inside, outside), 1)
        shortcut = data if channels[0] == outside else self.conv(data, (channels[0], outside), 1, stride)
        return self.add("Relu", self.add("Add", third, shortcut))


def make_resnet50(size: int = 224, width: int = WIDTH) -> onnx.ModelProto:
    """Return the net: input `input` float32[N, 3, size, size], output `logits` float32[N, 1000]; width: its first channels."""
    net = _Net()
    data = net.add("Relu", net.conv("input", (3, width), 7, 2))
    data = net.add("MaxPool", data, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = width
    for stage, blocks in enumerate(_BLOCKS):
        inside = width << stage
        for block in range(blocks):
            data = net.block(data, (channels, inside), 2 if stage and not block else 1)
            channels = 4 * inside
    flat = net.add("Flatten", net.add("GlobalAveragePool", data))
    logits = net.add("Gemm", flat, net.weight((1000, channels), 1.0), net.bias(1000), transB=1)
    net.nodes[-1].output[0] = "logits"
    assert logits not in {name for node in net.nodes for name in node.input}
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, size, size])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])
    graph = helper.make_graph(net.nodes, "resnet50", [given], [result], net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
