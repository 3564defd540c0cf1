"""Whether a model computes the same of the same images each time."""

from collections.abc import Iterable

import onnx
from onnx import numpy_helper

from app.errors import CalibrationRandom
from app.quant.nodes import find_captured, find_subgraphs, get_attribute, op_of

#: A seed helps none of them: it starts a series, and each run of the model goes on with that.
_RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
#: What they give depends on the shape of their input alone.
_SHAPES = ("Shape", "Size")


def check_repeatable(graph: onnx.GraphProto, tensors: Iterable[str]) -> None:
    """Raise CalibrationRandom where a random node has a part in one of the tensors, or in an output of the graph."""
    constants = _constants(graph)
    causes: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        cause = node if _is_random(node, constants) else _find_cause(node, causes)
        if cause is not None:
            causes.update((name, cause) for name in node.output if name)
    for name in (*tensors, *(output.name for output in graph.output)):
        if name in causes:
            cause = causes[name]
            raise CalibrationRandom(node=cause.name or cause.output[0], op=cause.op_type, tensor=name)


def _find_cause(node: onnx.NodeProto, causes: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    if op_of(node) in _SHAPES:
        return None
    return next((causes[name] for name in (*node.input, *sorted(find_captured([node]))) if name in causes), None)


def _is_random(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    inner = [each for subgraph in find_subgraphs(node) for each in subgraph.node]
    return any(op_of(each) in _RANDOM or _is_training(each, constants) for each in (node, *inner))


def _is_training(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if op_of(node) != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    flag, ratio = (constants.get(name) for name in (node.input[2], node.input[1]))
    drops_nothing = ratio is not None and not numpy_helper.to_array(ratio).any()
    return not drops_nothing and (flag is None or bool(numpy_helper.to_array(flag).any()))


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the constants that the file itself holds."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = ((node.output[0], get_attribute(node, "value")) for node in graph.node if op_of(node) == "Constant")
    constants |= {name: value for name, value in values if isinstance(value, onnx.TensorProto)}
    external = onnx.TensorProto.EXTERNAL
    return {name: tensor for name, tensor in constants.items() if tensor.data_location != external}
