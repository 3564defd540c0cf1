"""Convert what is float32 in a model to fp16; graph inputs and outputs stay float32."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.quant.float16_outputs import find_fp32_outputs
from app.quant.nodes import Namer, find_captured, find_subgraphs, index_graph, op_of, replace_initializers, replace_nodes
from app.quant.opset import FLOAT16_OPSET, raise_opset
from app.quant.signature import correct_output_shapes
from app.quant.simplify import remove_unused
from app.quant.tensor_types import infer_types

_LARGEST = float(np.finfo(np.float16).max)
#: What is smaller rounds to zero.
_SMALLEST = 2.0**-25
#: Calibration saw some images; others may go further.
_LARGEST_SEEN = _LARGEST / 2
_LARGEST_SCALE_ERROR = 2.0**-9

#: Sums, powers and exponentials leave fp16's range easily.
_WIDE_OPS = frozenset("CumSum Exp Log Pow ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSum ReduceSumSquare Softplus".split())
#: What brings their results back, or carries them on, such as the mean and root in a normalization by hand.
_AFTER_WIDE = frozenset("Add Div Reciprocal ReduceMean Sqrt".split())
_CARRYING = frozenset({"Add", "ReduceMean"})
#: These have no fp16 form in ONNX, or no kernel, or make tensors from nothing.
_FLOAT32_OPS = frozenset(
    """
    Bernoulli Cast Celu ConstantOfShape EyeLike IsInf Multinomial NonMaxSuppression RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Range RoiAlign
    """.split()
)
#: Their outputs fit into fp16, whatever they read.
_BOUNDED_OPS = frozenset(
    "GroupNormalization HardSigmoid InstanceNormalization LayerNormalization LogSoftmax Sigmoid Sign Softmax Tanh".split()
)
#: Their outputs say nothing of their inputs' range.
_REDUCING_OPS = frozenset({"Conv", "ConvTranspose", "Exp", "Gemm", "MatMul", "Pow", "ReduceSum", "ReduceSumSquare"})
#: Inputs that are float32 by the operator's definition.
_FLOAT32_INPUTS = {"Resize": (1, 2)}
#: Ops that ask for the shape only: any type will do.
_TYPELESS_OPS = frozenset({"Shape", "Size"})


def float16_from_model(
    model: onnx.ModelProto, amax: Mapping[str, float] | None = None, keeps_outputs: bool = False
) -> tuple[onnx.ModelProto, list[dict[str, str]]]:
    """Return model with fp16 weights, activations and Q/DQ scales, and what stayed fp32 as [{name, reason}].

    `amax`: the largest magnitude of tensors in calibration, as far as it is known. A node stays fp32 when one of its
    constants is beyond 65504, or a number above zero that fp16 rounds to zero; when a tensor that it reads or writes
    was seen beyond half of that, or follows from one that was; when a scale of its Q/DQ would move by more than 1/512;
    when it has subgraphs; or when its kind leaves the range of fp16 easily (a power, a sum, and the mean and root behind
    them; these are not listed). With `keeps_outputs` so do INT8 nodes that write a graph output. Bounds of Clip are cut to
    the range. Casts stand where the types meet. Opset 19 or newer.
    """
    model = raise_opset(model, FLOAT16_OPSET)
    correct_output_shapes(model)  # newer opsets tell more shapes
    kept = find_fp32_outputs(model.graph) if keeps_outputs else frozenset[str]()
    conversion = _Conversion(model, amax or {}, kept)
    conversion.convert()
    return model, conversion.kept


class _Conversion:
    """Every float32 tensor `t` may exist twice, as `t` and as `t_fp16`; casts are written when first asked for."""

    def __init__(self, model: onnx.ModelProto, amax: Mapping[str, float], fp32: frozenset[str]) -> None:
        self._graph = model.graph
        types = infer_types(model)
        self._floats = {name for name, known in types.items() if known.element == TensorProto.FLOAT}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._namer = Namer(model.graph)
        self._wide = set(self._constants) | {value.name for value in model.graph.input}
        self._narrow: dict[str, str] = {}
        self._written: list[onnx.NodeProto] = []
        self._added: list[TensorProto] = []
        self._amax = amax
        self._readers = index_graph(model.graph).consumers
        #: Tensors beyond fp16's range -> the tensor that was seen there.
        self._beyond = {name: name for name in types if amax.get(name, 0.0) > _LARGEST_SEEN}
        self._trace_back()
        self._fp32 = fp32
        self._carried: set[str] = set()
        self.kept: list[dict[str, str]] = []

    def convert(self) -> None:
        captured = find_captured(self._graph.node)
        for node in list(self._graph.node):
            for name in sorted(captured & self._narrow.keys() - self._wide):
                self._as_float32(name)  # subgraphs read it under its own name
            reason = self._why_float32(node)
            self._write_float32(node) if reason is not None else self._write_float16(node)
            if reason:
                self.kept.append({"name": node.name or node.output[0], "reason": reason})
        for output in self._graph.output:
            if output.name in self._floats:
                self._as_float32(output.name)
        replace_nodes(self._graph, self._written)
        replace_initializers(self._graph, [*self._graph.initializer, *self._added])
        del self._graph.value_info[:]
        remove_unused(self._graph)

    def _trace_back(self) -> None:
        # What a Relu or a pooling writes out of range, the node before it wrote out of range.
        for node in reversed(self._graph.node):
            source = next((self._beyond[name] for name in node.output if name in self._beyond), None)
            if source is not None and node.op_type not in _BOUNDED_OPS | _REDUCING_OPS:
                unknown = self._floats.intersection(node.input) - self._amax.keys() - self._constants.keys()
                self._beyond.update(dict.fromkeys(unknown, source))

    def _why_float32(self, node: onnx.NodeProto) -> str | None:
        """Return why node stays fp32, an empty text where that goes without saying, None where it becomes fp16."""
        if next(find_subgraphs(node), None) is not None:
            return "it has subgraphs"
        if not op_of(node) or node.op_type in _FLOAT32_OPS:
            return ""
        if not any(name in self._floats for name in [*node.input, *node.output]):
            return ""
        is_wide = self._is_wide(node) or node.output[0] in self._fp32
        reasons = (self._why_out_of_range(node), self._why_constant(node), "" if is_wide else None)
        return next((reason for reason in reasons if reason is not None), None)

    def _why_out_of_range(self, node: onnx.NodeProto) -> str | None:
        source = next((self._beyond[name] for name in [*node.input, *node.output] if name in self._beyond), None)
        if source is None and node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
            return self._why_reader_out_of_range(node)
        if source is None or node.op_type in _TYPELESS_OPS:
            return None
        if node.op_type not in _BOUNDED_OPS and any(name in self._beyond for name in node.input):
            self._beyond.update((name, source) for name in node.output if name not in self._amax)
        return f"{source} reached {self._amax[source]:.3g} in calibration, fp16 ends at {_LARGEST:.0f}"

    def _why_reader_out_of_range(self, weight: onnx.NodeProto) -> str | None:
        # A cast between a weight and its reader would part the two.
        readers = self._readers.get(weight.output[0], [])
        return "" if any(name in self._beyond for node in readers for name in [*node.input, *node.output]) else None

    def _why_constant(self, node: onnx.NodeProto) -> str | None:
        for position, name in enumerate(node.input):
            tensor = self._constants.get(name)
            if tensor is None or name not in self._floats or position in _FLOAT32_INPUTS.get(node.op_type, ()):
                continue
            reason = _why_beyond(node, position, numpy_helper.to_array(tensor))
            if reason:
                return f"{name} {reason}"
        return None

    def _is_wide(self, node: onnx.NodeProto) -> bool:
        is_square = node.op_type == "Mul" and node.input[0] == node.input[1]
        is_after = node.op_type in _AFTER_WIDE and any(name in self._carried for name in node.input)
        if is_square or node.op_type in _WIDE_OPS or (is_after and node.op_type in _CARRYING):
            self._carried.update(node.output)
        return is_square or is_after or node.op_type in _WIDE_OPS

    def _write_float32(self, node: onnx.NodeProto) -> None:
        if node.op_type == "DequantizeLinear" and node.output[0] in self._fp32:
            self._round(self._constants[node.input[1]])
        for position, name in enumerate(node.input):
            if name in self._floats:
                node.input[position] = self._any(name) if node.op_type == "Cast" else self._as_float32(name)
        self._written.append(node)
        self._wide.update(node.output)

    def _write_float16(self, node: onnx.NodeProto) -> None:
        for position, name in enumerate(node.input):
            if name not in self._floats:
                continue
            if node.op_type in _TYPELESS_OPS:
                node.input[position] = self._any(name)
            elif position in _FLOAT32_INPUTS.get(node.op_type, ()):
                node.input[position] = self._as_float32(name)
            else:
                node.input[position] = self._as_float16(name)
        for position, name in enumerate(node.output):
            if name in self._floats:
                self._narrow[name] = node.output[position] = self._namer.name(f"{name}_fp16")
        self._written.append(node)

    def _round(self, scale: TensorProto) -> None:
        # The QuantizeLinear before it has the scale in fp16.
        value = numpy_helper.to_array(scale)
        if _why_scale(value) is None:
            scale.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), scale.name))

    def _any(self, name: str) -> str:
        return name if name in self._wide else self._narrow[name]

    def _as_float32(self, name: str) -> str:
        if name not in self._wide:
            self._cast(self._narrow[name], name, TensorProto.FLOAT)
            self._wide.add(name)
        return name

    def _as_float16(self, name: str) -> str:
        if name not in self._narrow:
            self._narrow[name] = self._namer.name(f"{name}_fp16")
            if name in self._constants:
                self._added.append(_float16_tensor(self._constants[name], self._narrow[name]))
            else:
                self._cast(name, self._narrow[name], TensorProto.FLOAT16)
        return self._narrow[name]

    def _cast(self, source: str, target: str, to: int) -> None:
        self._written.append(helper.make_node("Cast", [source], [target], name=self._namer.name(f"{target}_Cast"), to=to))


def _why_beyond(node: onnx.NodeProto, position: int, value: np.ndarray) -> str | None:
    if node.op_type == "Clip":
        return None
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and position == 1:
        return _why_scale(value)
    largest = np.abs(value, dtype=np.float64).max(initial=0.0)
    if value.size == 1 and 0 < largest < _SMALLEST:
        return f"is {largest:.3g}, which fp16 rounds to zero"
    return f"reaches {largest:.3g}, fp16 ends at {_LARGEST:.0f}" if not largest <= _LARGEST else None


def _why_scale(value: np.ndarray) -> str | None:
    with np.errstate(over="ignore", under="ignore"):
        error = np.abs(value.astype(np.float16).astype(np.float64) / value.astype(np.float64) - 1)
    return "cannot be an fp16 scale" if not (error <= _LARGEST_SCALE_ERROR).all() else None


def _float16_tensor(tensor: TensorProto, name: str) -> TensorProto:
    value = np.clip(numpy_helper.to_array(tensor), -_LARGEST, _LARGEST)
    with np.errstate(under="ignore"):
        return numpy_helper.from_array(value.astype(np.float16), name)
