"""onnx's own checker and strict shape inference, on a model whose weights became inputs: their bytes do not matter."""

import math

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from app.errors import ModelInvalidGraph, ModelTooComplex
from app.inputs.limits import InputLimits

#: Weights above so many elements never decide a shape (Reshape, Slice, Resize take a few numbers).
_KEPT_ELEMENTS = 1024
_ERRORS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError)


def infer_output_shapes(model: ModelProto, limits: InputLimits) -> dict[str, ValueInfoProto]:
    """Check the model and return its outputs by name, with shapes as far as onnx infers them.

    Uses the model up: its weights are gone afterwards, so that they are never held twice.
    Raises ModelInvalidGraph and ModelTooComplex.
    """
    _turn_weights_into_inputs(model.graph)
    try:
        _check(model)
        _tell_types(model.graph)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except _ERRORS as error:
        raise ModelInvalidGraph(reason=_first_words(str(error))) from error
    _check_sizes(inferred, limits)
    return {value.name: value for value in inferred.graph.output}


def _turn_weights_into_inputs(graph: GraphProto) -> None:
    inputs = {value.name for value in graph.input}
    kept: list[TensorProto] = []
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= _KEPT_ELEMENTS:
            kept.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _check(model: ModelProto) -> None:
    # The checker wants a shape for every input and output, which runtimes do not: those without get one meanwhile.
    shapeless = [value for value in (*model.graph.input, *model.graph.output) if not value.type.tensor_type.HasField("shape")]
    for value in shapeless:
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(model)
    # Strict inference refuses a declared shape that differs from the inferred one, `N` for 1 above all. Runtimes only
    # warn of it, so what was declared is not compared; that each operator fits its inputs is.
    del model.graph.value_info[:]
    for value in (*shapeless, *model.graph.output):
        value.type.tensor_type.ClearField("shape")


def _tell_types(graph: GraphProto) -> None:
    # onnx infers nothing of a GroupNormalization's output, so what reads it would seem to read nothing.
    for node in graph.node:
        if node.op_type == "GroupNormalization" and node.domain in ("", "ai.onnx"):
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output, name=node.name))


def _check_sizes(inferred: ModelProto, limits: InputLimits) -> None:
    # A ConstantOfShape, Tile or Expand of a few bytes can make terabytes, at the latest when a runtime folds constants.
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        elements = math.prod(dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim)
        if elements > limits.tensor_elements:
            raise ModelTooComplex(reason=f"tensor {value.name} has {elements} elements")


def _first_words(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".") or "onnx refuses it"
