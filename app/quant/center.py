"""Centre activations that are never negative: [0, amax] becomes [-amax / 2, amax / 2], exactly in float.

INT8 with zero point 0 spends half of its steps on values that a Relu never gives. With c = amax / 2 the bias before the
activation and the activation's bounds are lowered by c, so that it gives x - c on a range around zero, in steps half as
large; its readers get W c back in their biases: W (x - c) + (b + W c). That holds where every reader is linear without
padding, for padding puts zeros where -c should be.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.bias_correction import add_to_biases, has_plain_bias
from app.quant.nodes import Index, Namer, get_attribute, get_int, index_graph
from app.quant.placement import PlacementPlan

_LINEAR = frozenset({"Conv", "Gemm"})


def center_activations(
    graph: onnx.GraphProto, plan: PlacementPlan, scales: MutableMapping[str, np.float32]
) -> list[dict[str, Any]]:
    """Centre what can be, in place, and halve its scales; return [{tensor, shift}], shift being what it is less now.

    Tensors keep their names. `graph` is a prepared model's, `scales` those of `plan.tensors`.
    """
    index = index_graph(graph)
    shared = {name for pair in plan.same_scale for name in pair}
    centred = [name for name in plan.tensors if name not in shared and _can_be_centred(name, plan, index)]
    shifts = {name: np.float32(float(scales[name]) * 127 / 2) for name in centred}
    corrections: dict[str, np.ndarray] = {}
    namer = Namer(graph)
    for name, shift in shifts.items():
        _lower_bounds(graph, index.producers[name], shift, namer)
        maker = index.producers[index.producers[name].input[0]]
        _add(corrections, maker.output[0], np.full_like(_channel_sums(maker, index), -float(shift)))
        for reader in index.consumers[name]:
            _add(corrections, reader.output[0], float(shift) * _channel_sums(reader, index))
        scales[name] = np.float32(scales[name] / 2)
    add_to_biases(graph, corrections)
    return [{"tensor": name, "shift": float(shift)} for name, shift in shifts.items()]


def _can_be_centred(name: str, plan: PlacementPlan, index: Index) -> bool:
    activation = index.producers.get(name)
    if activation is None or name in index.protected or not _begins_at_zero(activation, index):
        return False
    maker = index.producers.get(activation.input[0])
    if maker is None or not _is_linear(maker, index):
        return False
    if index.only_reader(activation.input[0]) is None or activation.input[0] in plan.tensors:
        return False
    return all(_takes_shift(reader, name, plan, index) for reader in index.consumers[name])


def _begins_at_zero(activation: onnx.NodeProto, index: Index) -> bool:
    if activation.op_type == "Relu":
        return True
    low = index.array(activation.input[1]) if activation.op_type == "Clip" and len(activation.input) > 1 else None
    is_fixed = all(bound in index.constants for bound in activation.input[1:] if bound)
    return low is not None and low.size == 1 and low.reshape(()) == 0 and is_fixed


def _takes_shift(reader: onnx.NodeProto, name: str, plan: PlacementPlan, index: Index) -> bool:
    reads = plan.reads.get(reader.output[0])
    if reads is None or reads.activations != (0,) or reads.weight is None or reader.input[0] != name:
        return False
    has_padding = any(get_attribute(reader, "pads") or ())  # pyright: ignore[reportArgumentType] - ints, by ONNX
    is_automatic = get_attribute(reader, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return _is_linear(reader, index) and not has_padding and not is_automatic


def _is_linear(node: onnx.NodeProto, index: Index) -> bool:
    is_plain = not get_int(node, "transA", 0) and get_attribute(node, "alpha", 1.0) == 1.0
    return node.op_type in _LINEAR and node.input[1] in index.constants and is_plain and has_plain_bias(node, index)


def _channel_sums(node: onnx.NodeProto, index: Index) -> np.ndarray:
    weight = index.array(node.input[1])
    assert weight is not None
    axis = 0 if node.op_type == "Conv" or get_int(node, "transB", 0) else 1
    return weight.sum(axis=tuple(i for i in range(weight.ndim) if i != axis), dtype=np.float64)


def _lower_bounds(graph: onnx.GraphProto, activation: onnx.NodeProto, shift: np.float32, namer: Namer) -> None:
    stored: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
    names = ["", *activation.input[2:3]]
    bounds = [np.float32(0), *(numpy_helper.to_array(stored[name]).reshape(()) for name in names[1:] if name)]
    activation.op_type = "Clip"
    del activation.input[1:]
    for bound in bounds:
        name = namer.name(f"{activation.output[0]}_bound")
        graph.initializer.append(numpy_helper.from_array(np.array(bound - shift, np.float32), name))
        activation.input.append(name)


def _add(corrections: dict[str, np.ndarray], output: str, value: np.ndarray) -> None:
    corrections[output] = corrections[output] + value if output in corrections else value
