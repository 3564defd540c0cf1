"""Values that a graph computes from constants alone, such as the pads and clip bounds of exported models."""

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from app.observers.session import RUNTIME_ERRORS, make_options

#: Weights are no bounds and no pads; what is larger than this is not looked at.
_MAX_ELEMENTS = 4096


def compute_constants(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the values of those of the named tensors that depend on no graph input."""
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    wanted = list(dict.fromkeys(names))
    known = {name: numpy_helper.to_array(initializers[name]) for name in wanted if _is_small(initializers.get(name))}
    producers = {name: node for node in model.graph.node for name in node.output if name}
    closures = {name: _find_closure(name, producers, initializers) for name in wanted if name not in known}
    computed = {name: nodes for name, nodes in closures.items() if nodes is not None}
    if not computed:
        return known
    needed = {id(node) for nodes in computed.values() for node in nodes}
    nodes = [node for node in model.graph.node if id(node) in needed]
    return known | _run(model, nodes, list(computed))


def _is_small(initializer: onnx.TensorProto | None) -> bool:
    return initializer is not None and int(np.prod(initializer.dims, dtype=np.int64)) <= _MAX_ELEMENTS


def _find_closure(
    name: str, producers: dict[str, onnx.NodeProto], initializers: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto] | None:
    nodes: dict[int, onnx.NodeProto] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if not current or _is_small(initializers.get(current)):
            continue
        node = producers.get(current)
        if node is None or any(attribute.HasField("g") for attribute in node.attribute) or "Random" in node.op_type:
            return None
        if id(node) not in nodes:
            nodes[id(node)] = node
            waiting.extend(node.input)
    return list(nodes.values())


def _run(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> dict[str, np.ndarray]:
    used = {name for node in nodes for name in node.input}
    initializers = [initializer for initializer in model.graph.initializer if initializer.name in used]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    graph = onnx.helper.make_graph(nodes, "constants", [], outputs, initializers)
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    try:
        session = ort.InferenceSession(part.SerializeToString(), make_options(), providers=["CPUExecutionProvider"])
        return dict(zip(names, map(np.asarray, session.run(names, {})), strict=True))
    except RUNTIME_ERRORS:
        return {}  # what cannot be told beforehand is measured like any other tensor
