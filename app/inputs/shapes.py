"""onnx's own checker and shape inference, on a copy without the weights' bytes."""

import math
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, TypeProto

from app.errors import ModelInvalidGraph, ModelTooComplex
from app.inputs.limits import InputLimits

#: Weights above so many elements never decide a shape (Reshape, Slice, Resize take a few numbers).
_KEPT_ELEMENTS = 1024


def infer_output_shapes(model: ModelProto, path: Path, limits: InputLimits) -> dict[str, TypeProto]:
    """Check the model and return the types of its outputs by name as far as onnx infers them.

    Weights are dropped from `model` on the way, to need their memory once. Raises ModelInvalidGraph and ModelTooComplex.
    """
    try:
        # By path: the checker then finds external data, and tests that it stays in the model's folder.
        onnx.checker.check_model(str(path))
        declared = _forget_shapes(model)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelInvalidGraph(reason=_first_words(str(error))) from error
    _check_sizes(inferred, limits)
    found = {value.name: TypeProto.FromString(value.type.SerializeToString()) for value in inferred.graph.output}
    _restore_shapes(model, declared)
    return found


def _check_sizes(inferred: ModelProto, limits: InputLimits) -> None:
    # A ConstantOfShape, Tile or Expand of a few bytes can make terabytes, at the latest when a runtime folds constants.
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        elements = math.prod(dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim)
        if elements > limits.tensor_elements:
            raise ModelTooComplex(reason=f"tensor {value.name} has {elements} elements")


def _forget_shapes(model: ModelProto) -> list[bytes]:
    # Strict inference refuses a declared shape that differs from the inferred one, `N` for 1 above all. Runtimes only
    # warn of it, so what was declared is not compared; that each operator fits its inputs is.
    for tensor in model.graph.initializer:
        _drop_bytes(tensor)
    del model.graph.value_info[:]
    declared = [value.type.SerializeToString() for value in model.graph.output]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return declared


def _drop_bytes(tensor: TensorProto) -> None:
    count = 1
    for dimension in tensor.dims:
        count *= dimension
    if count > _KEPT_ELEMENTS:
        for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
            tensor.ClearField(name)


def _restore_shapes(model: ModelProto, declared: list[bytes]) -> None:
    for value, content in zip(model.graph.output, declared, strict=True):
        value.type.ParseFromString(content)


def _first_words(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or "onnx refuses it"
