"""What a pattern is, and how its nets are made in every opset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str]

#: Every opset in which exporters wrote models of images.
OPSETS = (9, 11, 13, 17, 21, 24)


@dataclass(frozen=True)
class Pattern:
    """`build(opset)` makes the net. `pairs`: activations with a Q/DQ pair under conservative, default and fused.

    `floats`: tensors whose makers read no INT8, whatever the placement.
    """

    build: Callable[[int], onnx.ModelProto]
    pairs: tuple[int, int, int]
    floats: tuple[str, ...] = ()
    opsets: tuple[int, ...] = (17,)

    @property
    def name(self) -> str:
        """The name of the function that builds it."""
        return self.build.__name__.replace("_", "-")


class Graph:
    """Collects nodes, weights and inputs; every method returns the name of the tensor that it made.

    Methods write an operator in the way of the graph's opset, where the ways differ.
    """

    def __init__(self, opset: int) -> None:
        self.random = np.random.default_rng(0)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int | str) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, FLOAT, shape))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.normal(0, 0.2, shape))

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def conv(self, source: str, output: str, inner: int, outer: int, kernel: int = 3, **attributes: Any) -> str:
        group = attributes.get("group", 1)
        weight = self.weight(f"{output}.weight", outer, inner // group, kernel, kernel)
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", [source, weight, self.weight(f"{output}.bias", outer)], output, **attributes)

    def batchnorm(self, source: str, output: str, channels: int) -> str:
        names = [self.constant(f"{output}.{i}", self.random.uniform(0.5, 1.5, channels)) for i in range(4)]
        return self.node("BatchNormalization", [source, *names], output)

    def clip(self, source: str, output: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.node("Clip", [source], output, min=float(low), max=float(high))
        bounds = [self.constant(f"{output}.low", low), self.constant(f"{output}.high", high)]
        return self.node("Clip", [source, *bounds], output)

    def pad(self, source: str, output: str, pads: Sequence[int]) -> str:
        if self.opset < 11:
            return self.node("Pad", [source], output, pads=pads)
        return self.node("Pad", [source, self.constant(f"{output}.pads", pads, np.int64)], output)

    def squeeze(self, source: str, output: str, axes: Sequence[int]) -> str:
        if self.opset < 13:
            return self.node("Squeeze", [source], output, axes=axes)
        return self.node("Squeeze", [source, self.constant(f"{output}.axes", axes, np.int64)], output)

    def reduce_mean(self, source: str, output: str, axes: Sequence[int], keepdims: int = 1) -> str:
        if self.opset < 18:
            return self.node("ReduceMean", [source], output, axes=axes, keepdims=keepdims)
        return self.node("ReduceMean", [source, self.constant(f"{output}.axes", axes, np.int64)], output, keepdims=keepdims)

    def upsample(self, source: str, output: str) -> str:
        if self.opset < 9:
            return self.node("Upsample", [source], output, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
        scales = self.constant(f"{output}.scales", [1, 1, 2, 2])
        if self.opset < 10:
            return self.node("Upsample", [source, scales], output, mode="nearest")
        roi = self.constant(f"{output}.roi", np.zeros(0)) if self.opset == 11 else ""
        inputs = [source, scales] if self.opset < 11 else [source, roi, scales]
        return self.node("Resize", inputs, output, mode="nearest")

    def split(self, source: str, outputs: Sequence[str], axis: int) -> list[str]:
        more: dict[str, Any] = {"num_outputs": len(outputs)} if self.opset >= 18 else {}
        self.nodes.append(helper.make_node("Split", [source], outputs, name=f"{outputs[0]}_node", axis=axis, **more))
        return list(outputs)

    def slice(self, source: str, output: str, axis: int, start: int, end: int) -> str:
        if self.opset < 10:
            return self.node("Slice", [source], output, axes=[axis], starts=[start], ends=[end])
        parts = {"starts": start, "ends": end, "axes": axis}
        return self.node("Slice", [source, *(self.constant(f"{output}.{k}", [v], np.int64) for k, v in parts.items())], output)

    def flatten_batch(self, source: str, output: str) -> str:
        """Flatten as PyTorch's `x.view(x.size(0), -1)` is exported: Shape, Gather, Unsqueeze, Concat, Reshape."""
        size = self.node("Shape", [source], f"{output}.shape")
        batch = self.node("Gather", [size, self.constant(f"{output}.zero", 0, np.int64)], f"{output}.batch", axis=0)
        axes = [self.constant(f"{output}.axes", [0], np.int64)] if self.opset >= 13 else []
        more: dict[str, Any] = {} if axes else {"axes": [0]}
        self.node("Unsqueeze", [batch, *axes], f"{output}.batch1", **more)
        rest = self.constant(f"{output}.rest", [-1], np.int64)
        target = self.node("Concat", [f"{output}.batch1", rest], f"{output}.target", axis=0)
        return self.node("Reshape", [source, target], output)

    def model(self, *outputs: str, ranks: int | Sequence[int] = 4, element: int = FLOAT) -> onnx.ModelProto:
        """Return the model with these float32 outputs of the given rank (or ranks), all of whose sizes are unknown."""
        known = [ranks] * len(outputs) if isinstance(ranks, int) else ranks
        values = [
            helper.make_tensor_value_info(name, element, [f"{name}_{i}" for i in range(rank)])
            for name, rank in zip(outputs, known, strict=True)
        ]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=_ir(self.opset))


def _ir(opset: int) -> int:
    return max(4, onnx.helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


def feeds(model: onnx.ModelProto, count: int = 4) -> dict[str, np.ndarray]:
    """Return values for all inputs, the same every time; symbolic sizes are count."""
    random = np.random.default_rng(1)
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: random.normal(0, 1, [d.dim_value or count for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
        if value.name not in weights
    }
