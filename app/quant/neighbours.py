"""Ranges that follow from a neighbour's: through operators that keep every value, or whose output is bounded.

Never a guess: what is returned is the tensor's amax under the table's own (`same`), or a bound of it (`bound`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from app.quant.nodes import Index, get_attribute, index_graph

#: Output and first input have the same values.
_KEEPING = frozenset(
    "Dropout Flatten Identity Reshape Squeeze Transpose Unsqueeze DepthToSpace SpaceToDepth Expand Tile".split()
)
#: |output| <= |first input|.
_SHRINKING = frozenset(
    """
    Abs AveragePool GatherND Gather GlobalAveragePool GlobalMaxPool HardSwish MaxPool Neg ReduceMax ReduceMean
    ReduceMin Relu Slice Softsign Split Tanh
    """.split()
)
#: |output| <= 1, whatever the input.
_UNIT = frozenset("Erf HardSigmoid Sigmoid Softmax Softsign Tanh".split())
#: These interpolate between values; cubic overshoots.
_BOUNDED_MODES = (b"nearest", b"linear")


@dataclass(frozen=True)
class Filled:
    """Where an amax came from: `rule` is same or bound, `source` the tensors of the table, `through` the operators."""

    amax: float
    rule: str
    source: tuple[str, ...]
    through: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def fill_from_neighbours(model: onnx.ModelProto, amax: Mapping[str, float], wanted: Iterable[str]) -> dict[str, Filled]:
    """Return what of the wanted tensors follows from the amax that are known; equal values go before bounds."""
    known = {name: Filled(value, "same", (name,), ()) for name, value in amax.items()}
    graph, index = model.graph, index_graph(model.graph)
    while True:
        size = len(known)
        _spread(graph, index, known, (_same_behind, _same_before))
        if len(known) == size:
            _spread(graph, index, known, (_bound_behind, _bound_before))
        if len(known) == size:
            return {name: known[name] for name in wanted if name in known and name not in amax}


Step = Callable[[onnx.NodeProto, Index, Mapping[str, Filled]], dict[str, Filled]]


def _spread(graph: onnx.GraphProto, index: Index, known: dict[str, Filled], steps: Iterable[Step]) -> None:
    for step in steps:
        for node in graph.node:
            if node.domain in ("", "ai.onnx"):
                found = step(node, index, known)
                known.update({name: filled for name, filled in found.items() if name not in known})


def _same_behind(node: onnx.NodeProto, _index: Index, known: Mapping[str, Filled]) -> dict[str, Filled]:
    if node.op_type in _KEEPING and node.input[0] in known:
        return {node.output[0]: _next([known[node.input[0]]], node, "same")}
    return {}


def _same_before(node: onnx.NodeProto, index: Index, known: Mapping[str, Filled]) -> dict[str, Filled]:
    if node.op_type in _KEEPING and node.output[0] in known and node.input[0] not in index.constants:
        return {node.input[0]: _next([known[node.output[0]]], node, "same")}
    return {}


def _bound_behind(node: onnx.NodeProto, index: Index, known: Mapping[str, Filled]) -> dict[str, Filled]:
    wanted, ceiling = _bounding_inputs(node, index), _ceiling(node, index)
    sources = [known[name] for name in wanted if name in known]
    if sources and len(sources) == len(wanted):
        filled = _next(sources, node, "bound", ceiling)
    elif ceiling < math.inf:
        filled = Filled(ceiling, "bound", (), (node.op_type,))
    else:
        return {}
    return {name: filled for name in node.output if name}


def _bound_before(node: onnx.NodeProto, index: Index, known: Mapping[str, Filled]) -> dict[str, Filled]:
    if node.op_type != "Concat" or node.output[0] not in known:
        return {}
    filled = _next([known[node.output[0]]], node, "bound")
    return {name: filled for name in node.input if name and name not in index.constants}


def _bounding_inputs(node: onnx.NodeProto, index: Index) -> list[str]:
    if node.op_type == "Concat":
        return [name for name in node.input if name]
    if node.op_type in _SHRINKING or _is_bounded(node, index):
        return [node.input[0]]
    return []


def _is_bounded(node: onnx.NodeProto, index: Index) -> bool:
    if node.op_type in ("Resize", "Upsample"):
        places = get_attribute(node, "coordinate_transformation_mode")
        return get_attribute(node, "mode", b"nearest") in _BOUNDED_MODES and places != b"tf_crop_and_resize"
    if node.op_type == "Clip":
        return _clip_bounds(node, index) is not None
    if node.op_type == "LeakyRelu":
        slope = get_attribute(node, "alpha", 0.01)
        return isinstance(slope, float) and abs(slope) <= 1
    return node.op_type == "Pad" and _pads_with_less(node, index)


def _pads_with_less(node: onnx.NodeProto, index: Index) -> bool:
    if get_attribute(node, "mode", b"constant") != b"constant":
        return True  # reflect, edge, wrap: values of the input
    value = index.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    is_zero = value is not None and not value.any()
    return is_zero or (len(node.input) < 3 and not get_attribute(node, "value", 0.0))


def _ceiling(node: onnx.NodeProto, index: Index) -> float:
    """Return what no output of the node exceeds in magnitude, whatever its input is."""
    if node.op_type in _UNIT:
        return 1.0
    bounds = _clip_bounds(node, index) if node.op_type == "Clip" else None
    return max(abs(bound) for bound in bounds) or math.inf if bounds else math.inf


def _clip_bounds(node: onnx.NodeProto, index: Index) -> tuple[float, float] | None:
    """Return the bounds of a Clip; None where they are not constant, or do not hold 0, so that values may grow."""
    bounds = [get_attribute(node, "min", -math.inf), get_attribute(node, "max", math.inf)]
    for place, name in enumerate(node.input[1:3]):
        value = index.array(name) if name else None
        if name:
            bounds[place] = float(value.max()) if value is not None and value.size == 1 else None
    low, high = bounds
    if isinstance(low, float) and isinstance(high, float) and low <= 0 <= high:
        return low, high
    return None


def _next(sources: list[Filled], node: onnx.NodeProto, rule: str, ceiling: float = math.inf) -> Filled:
    largest = max(sources, key=lambda filled: filled.amax)
    kept = rule if all(filled.rule == "same" for filled in sources) else "bound"
    names = tuple(dict.fromkeys(name for filled in sources for name in filled.source))
    return Filled(min(largest.amax, ceiling), kept, names, (*largest.through, node.op_type))
