"""TensorRT's rules of Q/DQ placement, as checks of a finished model."""

import numpy as np
import onnx
from onnx import numpy_helper

#: Inputs and output have one scale, and all or none are INT8.
_SAME_SCALE = frozenset("Concat Flatten MaxPool Reshape Slice Split Squeeze Transpose Unsqueeze".split())
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Structure:
    """A Q/DQ model and its pairs: `dequantized` maps what DequantizeLinear makes to the node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.quantized = {node.input[0]: node for node in self.nodes if node.op_type == "QuantizeLinear"}
        self.dequantized = {node.output[0]: node for node in self.nodes if node.op_type == "DequantizeLinear"}

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return [node for node in self.nodes if name in node.input]

    def reads_int8(self, node: onnx.NodeProto) -> list[bool]:
        """Return of each input of node whether a DequantizeLinear makes it."""
        return [name in self.dequantized for name in node.input]

    def scale(self, name: str) -> float:
        """Return the scale with which a tensor, or what stands behind its pair, is quantized."""
        node = self.dequantized[name] if name in self.dequantized else self.quantized[name]
        return float(self.constants[node.input[1]])

    def check(self) -> None:
        """Assert every rule."""
        quantizers = [node.input[0] for node in self.nodes if node.op_type == "QuantizeLinear"]
        assert len(quantizers) == len(set(quantizers)), "one Q for each tensor, shared by all its readers"
        assert not self.constants.keys() & set(quantizers), "weights are stored as int8"
        for node in (*self.quantized.values(), *self.dequantized.values()):
            self._check_parameters(node)
        for node in self.nodes:
            if node.op_type in _WEIGHTED:
                self._check_weighted(node)
            elif node.op_type in _SAME_SCALE:
                self._check_moved(node)
            elif node.op_type == "Add":
                self._check_sum(node)

    def _check_parameters(self, node: onnx.NodeProto) -> None:
        zero, scale = self.constants[node.input[2]], self.constants[node.input[1]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        assert scale.ndim == 0 or node.input[0] in self.constants, "activations have one scale"

    def _check_weighted(self, node: onnx.NodeProto) -> None:
        is_int8 = self.reads_int8(node)
        assert is_int8[0] == is_int8[1], f"{node.name} reads INT8 on one side only"
        assert not any(is_int8[2:]), f"the bias of {node.name} stays float"
        weight = self.dequantized.get(node.input[1])
        if node.op_type == "Conv" and weight is not None and weight.input[0] in self.constants:
            channels = self.constants[weight.input[0]].shape[0]
            assert self.constants[weight.input[1]].shape == (channels,)
            assert next(a.i for a in weight.attribute if a.name == "axis") == 0

    def _check_moved(self, node: onnx.NodeProto) -> None:
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        is_int8 = {name in self.dequantized for name in moved}
        assert len(is_int8) == 1, f"{node.name} reads INT8 and float"
        if is_int8 == {True}:
            outputs = [name for name in node.output if self.readers(name)]
            assert len({self.scale(name) for name in (*moved, *outputs)}) == 1, f"{node.name} has one scale"

    def _check_sum(self, node: onnx.NodeProto) -> None:
        for name, is_int8 in zip(node.input, self.reads_int8(node), strict=True):
            maker = self.makers.get(self.makers[self.dequantized[name].input[0]].input[0]) if is_int8 else None
            if maker is None or maker.op_type != "Conv":
                continue
            other = self.makers.get(next(n for n in node.input if n != name))
            assert other is not None
            assert other.op_type in ("Conv", "DequantizeLinear"), "a convolution's branch is added before it is written"
