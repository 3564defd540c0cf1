"""Which tensors are fetched from the runtime, and which follow from another one's values.

Reshape, Flatten, Transpose and the like keep the values; Relu and Clip clamp them; zero padding adds zeros. A tensor
behind such nodes is a view of the tensor before them: it is counted from the same memory and never fetched, and the
runtime keeps its fusions (an activation into its Conv, a Pad into its Conv).

TensorRT's calibrators give what a MaxPool or an AveragePool puts out the very scale of what goes in, so on TensorRT's grid
its output has the histogram of its input, and is not fetched either. On the mergeable grid it is measured: a maximum over
windows has fewer small values, a mean a smaller range, and it is its own distribution that decides what is best kept of it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from app.errors import CalibrationProblem
from app.observers.constants import compute_constants
from app.observers.views import Plan, View
from app.quant.observation import Grid

#: The output has the values of the first input, each as often.
_RESHAPING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
_IDENTICAL = {"Identity", "Dropout"}
#: The first output has the scale of the input in TensorRT's caches, whatever its own values are. Pooling of all there is
#: (GlobalAveragePool, GlobalMaxPool, ReduceMax, ReduceMean) is measured there, and so are Concat, Slice, Split, Resize.
_SCALED_AS_INPUT = {"AveragePool", "MaxPool"}


@dataclass(frozen=True)
class _Graph:
    producers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, np.ndarray]
    input: str


def make_plan(model: onnx.ModelProto, tensors: Iterable[str], grid: Grid) -> Plan:
    """Return how to measure tensors of model on a grid; raises CalibrationProblem for names that it does not have."""
    wanted = list(dict.fromkeys(tensors))
    graph = _read_graph(model)
    if unknown := [name for name in wanted if name not in graph.producers and name != graph.input]:
        raise CalibrationProblem(reason=f"the model has no activations {', '.join(unknown[:5])}")
    walk = _through_equal if grid == "mergeable" else _through_scaled
    kept = {name: walk(graph, View(name)) for name in wanted}
    bases = {view.source for view in kept.values()} | {graph.input}
    views = {name: _through_clamps(graph, view, bases) for name, view in kept.items()}
    sources = {view.source for view in views.values()}
    order = [name for node in model.graph.node for name in node.output if name in sources]
    return Plan(graph.input, tuple(order), views)


def find_image_input(model: onnx.ModelProto) -> str:
    """Return the name of the model's only input; raises CalibrationProblem where it has another number of them."""
    initializers = {initializer.name for initializer in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    if len(names) != 1:
        raise CalibrationProblem(reason=f"a model to calibrate has one input, this one has {len(names)}")
    return names[0]


def _read_graph(model: onnx.ModelProto) -> _Graph:
    producers = {name: _standard(node) for node in model.graph.node for name in node.output if name}
    asked = [name for node in model.graph.node if node.op_type in ("Clip", "Pad") for name in node.input[1:] if name]
    return _Graph(producers, compute_constants(model, asked), find_image_input(model))


def _standard(node: onnx.NodeProto) -> onnx.NodeProto:
    # An op of another domain may bear the name of a standard one.
    return node if node.domain in ("", "ai.onnx") else onnx.NodeProto(op_type="", output=node.output)


def _through_equal(graph: _Graph, view: View) -> View:
    # Pads are counted in elements, so that past a Pad only nodes that keep the shape are walked through.
    while (node := graph.producers.get(view.source)) is not None:
        if _is_identity(node, view.source) or (node.op_type in _RESHAPING and not view.pads):
            view = replace(view, source=node.input[0])
        elif node.op_type == "Pad" and (pads := _zero_pads(graph, node)) is not None:
            view = replace(view, source=node.input[0], pads=(pads, *view.pads))
        else:
            break
    return view


def _through_scaled(graph: _Graph, view: View) -> View:
    # Never to be walked through behind a clamp: what a Relu makes of a pooled tensor is measured by itself.
    while True:
        view = _through_equal(graph, view)
        node = graph.producers.get(view.source)
        if view.pads or node is None or node.op_type not in _SCALED_AS_INPUT or view.source != node.output[0]:
            return view
        view = replace(view, source=node.input[0])


def _is_identity(node: onnx.NodeProto, output: str) -> bool:
    is_training = len(node.input) > 2 and bool(node.input[2])
    return node.op_type in _IDENTICAL and output == node.output[0] and not is_training


def _through_clamps(graph: _Graph, view: View, bases: set[str]) -> View:
    # A clamp is walked through where the tensor before it is at hand anyway; else its own output is fetched, which
    # the runtime fuses into the node before.
    node = graph.producers.get(view.source)
    bounds = _clamp_bounds(graph, node) if node is not None else None
    if node is None or bounds is None or (view.pads and not bounds[0] <= 0 <= bounds[1]):
        return view
    before = _through_equal(graph, View(node.input[0], pads=view.pads))
    if before.source not in bases and _through_clamps(graph, before, bases) == before:
        return view
    low, high = (min(max(bound, view.low), view.high) for bound in bounds)
    below = _through_clamps(graph, before, bases)
    if below.pads and not low <= 0 <= high:
        return view
    return replace(below, low=min(max(below.low, low), high), high=min(max(below.high, low), high))


def _clamp_bounds(graph: _Graph, node: onnx.NodeProto) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    attributes = {attribute.name: attribute.f for attribute in node.attribute}
    bounds = [attributes.get("min", -math.inf), attributes.get("max", math.inf)]
    for place, name in enumerate(node.input[1:3]):
        if name:
            constant = graph.constants.get(name)
            if constant is None or constant.size != 1 or constant.dtype != np.float32:
                return None
            bounds[place] = float(constant.reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None


def _zero_pads(graph: _Graph, node: onnx.NodeProto) -> tuple[tuple[int, int], ...] | None:
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"constant")
    if mode != b"constant" or len(node.input) < 2 or (len(node.input) > 3 and node.input[3]):
        return None
    pads = graph.constants.get(node.input[1])
    value = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if pads is None or value is None or value.size != 1 or float(value.reshape(())) != 0:
        return None
    before, after = np.split(pads.astype(np.int64), 2)
    if (pads < 0).any() or before[0] or after[0]:
        return None
    return tuple((int(low), int(high)) for low, high in zip(before, after, strict=True))
