"""Scales and zero points that spend all 256 steps of int8 on values that occur.

Symmetric int8 spends half of its steps on values that a Relu never gives. A zero point moves the steps to where the values
are: real = (stored - zero_point) * scale. Zero stays exact, as padding needs. ONNX Runtime takes any zero point, TensorRT 0
alone; `app.quant.center` does without where it can.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from app.quant.nodes import Index, get_attribute, index_graph, op_of
from app.quant.table import MIN_SCALE, Extremes

_LOWEST, _STEPS = -128, 255

#: These give nothing below zero, whatever they read.
_NEVER_NEGATIVE = frozenset("Abs Exp HardSigmoid ReduceL1 ReduceL2 ReduceSumSquare Relu Sigmoid Softmax Softplus Sqrt".split())
#: These give nothing below zero where their first input is not.
_KEEPING = frozenset(
    """
    AveragePool Ceil DepthToSpace Dropout Expand Flatten Floor Gather GlobalAveragePool GlobalMaxPool HardSwish Identity
    MaxPool ReduceMax ReduceMean ReduceMin ReduceSum Reshape Round Slice SpaceToDepth Split Squeeze Tanh Tile Transpose
    Unsqueeze
    """.split()
)
#: These give nothing below zero where none of their inputs is.
_KEEPING_ALL = frozenset("Add Concat Max Mean Min Mul Sum".split())
#: Values between others; cubic interpolation overshoots.
_BOUNDED_MODES = (b"nearest", b"linear")


_Range = tuple[float, float]


@dataclass(frozen=True)
class Steps:
    """What a Q/DQ pair stores: real = (stored - zero_point) * scale, stored in [-128, 127]."""

    scale: np.float32
    zero_point: int = 0


def symmetric(scales: Mapping[str, np.float32]) -> dict[str, Steps]:
    """Return steps of these scales around zero point 0."""
    return {name: Steps(scale) for name, scale in scales.items()}


def asymmetric(
    graph: onnx.GraphProto, scales: Mapping[str, np.float32], extremes: Extremes, groups: Iterable[list[str]]
) -> dict[str, Steps]:
    """Return steps over [low, high]: the extremes that were observed, within amax = 127 * scale of the table.

    Where none were observed they are [0, amax] for what cannot be negative; else nothing is known, and the table's own scale
    stays, around zero point 0. The tensors of a group get the same steps.
    """
    never = find_never_negative(graph)
    ranges = {name: _range(127 * float(scale), extremes.get(name), name in never) for name, scale in scales.items()}
    for group in groups:
        ranges.update(dict.fromkeys(group, _joined([ranges[name] for name in group])))
    return {name: _steps(scale, ranges[name]) for name, scale in scales.items()}


def _range(amax: float, seen: tuple[float, float] | None, is_never_negative: bool) -> _Range | None:
    if seen is None and not is_never_negative:
        return None
    low, high = seen or (0.0, math.inf)
    if is_never_negative:
        low = 0.0
    return max(min(low, 0.0), -amax), min(max(high, 0.0), amax)


def _joined(ranges: list[_Range | None]) -> _Range | None:
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _steps(scale: np.float32, ends: _Range | None) -> Steps:
    if ends is None:
        return Steps(scale)
    low, high = ends
    spread = np.float32((high - low) / _STEPS)
    if not MIN_SCALE <= spread < scale:
        return Steps(scale)
    return Steps(spread, int(np.clip(np.rint(_LOWEST - low / float(spread)), _LOWEST, _LOWEST + _STEPS)))


def find_never_negative(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the tensors of the main graph that hold nothing below zero for any image, as far as the operators say it."""
    index = index_graph(graph)
    found = {name for name in index.constants if _is_never_negative(index.array(name))}
    for node in graph.node:
        if _gives_none(node, index, found):
            found.update(name for name in node.output if name)
    return frozenset(found)


def _is_never_negative(values: np.ndarray | None) -> bool:
    return values is not None and values.dtype.kind == "f" and bool((values >= 0).all())


def _gives_none(node: onnx.NodeProto, index: Index, found: set[str]) -> bool:
    op = op_of(node)
    if op in _NEVER_NEGATIVE:
        return True
    if op == "Clip":
        return _is_clipped_to_none(node, found)
    if op in _KEEPING_ALL:
        return all(name in found for name in node.input)
    if op in ("Resize", "Upsample"):
        return node.input[0] in found and _is_bounded(node)
    if op == "Pad":
        return node.input[0] in found and (len(node.input) < 3 or not node.input[2] or node.input[2] in found)
    if op == "Div":
        return all(name in found for name in node.input)
    return op in _KEEPING and node.input[0] in found


def _is_clipped_to_none(node: onnx.NodeProto, found: set[str]) -> bool:
    low, high = [*node.input[1:], "", ""][:2]
    return (node.input[0] in found or low in found) and (not high or high in found)


def _is_bounded(node: onnx.NodeProto) -> bool:
    places = get_attribute(node, "coordinate_transformation_mode")
    return get_attribute(node, "mode", b"nearest") in _BOUNDED_MODES and places != b"tf_crop_and_resize"
