"""What TensorRT's ONNX parser calls the tensors that the ONNX file has no name for, seen in its own caches.

A constant operand `w` becomes a layer with the output `w_output`; what is inside nodes: `app.quant.inner`. Shapes are matched
by `ONNXTRT_Broadcast_output`, and layers without a name are `(Unnamed Layer* N) [Kind]_output`. Weights of convolutions and
of normalizations are no tensors there.
"""

import re
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.histogram import add_tensorrt_batch, empty_tensorrt
from app.quant.nodes import FLOAT_TYPES, find_fixed, get_attribute, op_of
from app.quant.table import MIN_SCALE
from app.quant.thresholds import compute_amax

#: TensorRT makes these for itself.
INTERNAL_PREFIXES = ("ONNXTRT_", "(Unnamed Layer* ", "tmp_refittable_weight")
#: Operators whose constant inputs become weights of the layer or numbers of its description.
_LAYER_WEIGHTS = frozenset(
    """
    BatchNormalization Clip Conv ConvTranspose Dropout Expand Gather GRU InstanceNormalization LSTM OneHot Pad Resize
    RNN Slice Upsample
    """.split()
)
_MOVING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_ZERO_AMAX = 127.0
_LAYER_OUTPUT = re.compile(r"(.+)_output(?:_[0-9]{1,9})?")
_NUMBER = re.compile(r"_[0-9]{1,9}$")


def find_constant_names(graph: onnx.GraphProto) -> set[str]:
    """Return every name under which a cache may list what no image changes: constants, and what is computed from them."""
    names = find_fixed(graph)
    return {*names, *(f"{name}_output" for name in names)}


def is_inside(name: str, nodes: Collection[str]) -> bool:
    """Return whether a name is of a tensor inside one of the nodes with these names.

    Such are the product of a Gemm, the matrix that a Softmax works on, the gates of an LSTM: NODE, a number where the
    node becomes several layers, `_output`, and again a number where such a name was taken.
    """
    layer = _LAYER_OUTPUT.fullmatch(name)
    return layer is not None and (layer[1] in nodes or _NUMBER.sub("", layer[1]) in nodes)


def constant_amax(graph: onnx.GraphProto, method: str) -> dict[str, float]:
    """Return amax of the constants that TensorRT takes for tensors, under its names, in the graph's order.

    What only moves the values of one, such as a Reshape, is a tensor under its own name. TensorRT's calibrators treat them
    like activations, on its own grid: with method entropy they get the same bin. By every other method the largest magnitude
    is kept.
    """
    found: dict[str, float] = {}
    for name, tensor in _operands(graph):
        value = numpy_helper.to_array(tensor)
        if np.isfinite(value).all():
            found[f"{name}_output"] = measure_constant(value.astype(np.float32), method)
    for node in graph.node:
        if op_of(node) in _MOVING:
            amax = found.get(f"{node.input[0]}_output", found.get(node.input[0]))
            found |= {node.output[0]: amax} if amax is not None else {}
    return found


def range_of_constant(largest: float) -> float:
    """Return the largest magnitude of a constant as its amax. Zeros are exact at any scale; they get scale 1."""
    return _ZERO_AMAX if is_zero(largest) else largest


def is_zero(largest: float) -> bool:
    """Return whether a magnitude is too small for a scale of its own."""
    return largest < 127 * MIN_SCALE


def measure_constant(value: np.ndarray, method: str) -> float:
    """Return the amax that TensorRT's calibrator gives a constant, float32 of any shape, by a method; see `constant_amax`."""
    largest = float(np.abs(value).max(initial=0.0))
    if method != "entropy" or is_zero(largest):
        return range_of_constant(largest)
    return compute_amax(add_tensorrt_batch(empty_tensorrt(), value.ravel()), method)


def _operands(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = get_attribute(node, "value") if op_of(node) == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            constants[node.output[0]] = value
    for node in graph.node:
        if node.op_type not in _LAYER_WEIGHTS:
            used = [(name, constants[name]) for name in node.input if name in constants]
            yield from (pair for pair in used if pair[1].data_type in FLOAT_TYPES)
