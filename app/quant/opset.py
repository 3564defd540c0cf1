"""Bring a model to an opset in which Q/DQ can be written."""

from typing import Any

import onnx
from onnx import version_converter

from app.errors import ModelUnsupportedOp

#: QuantizeLinear and DequantizeLinear have an axis since opset 13; fp16 scales since 19.
LOWEST_OPSET = 13
FLOAT16_OPSET = 19
NEWEST_OPSET = 24
_LOWEST_IR = 8


def get_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that model imports."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def raise_opset(model: onnx.ModelProto, lowest: int) -> onnx.ModelProto:
    """Return model in opset `lowest` or newer, in IR 8 or newer, weights being no graph inputs.

    Raises ModelUnsupportedOp where the ONNX version converter knows no way, or the opset is newer than 24.
    """
    model = _without_weight_inputs(model)
    version = get_opset(model)
    if version > NEWEST_OPSET:
        raise ModelUnsupportedOp(node="(all)", op=f"opset {version}", reason=f"opsets up to {NEWEST_OPSET} are read")
    if version < lowest:
        model = _converted(model, lowest)
    model.ir_version = max(model.ir_version, _LOWEST_IR, _lowest_ir(model))
    return model


def _lowest_ir(model: onnx.ModelProto) -> int:
    return onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)


def _without_weight_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    # Before IR 4 every initializer is an input as well, which forbids taking it for a constant.
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in weights]
    if len(inputs) < len(copy.graph.input):
        _replace_values(copy.graph.input, inputs)
        copy.ir_version = max(copy.ir_version, 4)
    return copy


def _converted(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    # The converter renames what a node that it replaces had made, unless it is an output of the graph.
    outputs = [value.name for value in model.graph.output]
    inner = dict.fromkeys(name for node in model.graph.node for name in node.output if name and name not in outputs)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    try:
        converted = version_converter.convert_version(model, version)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        reason = f"it cannot be converted from opset {get_opset(model)} to {version}: {error}"
        raise ModelUnsupportedOp(node="(all)", op=f"opset {get_opset(model)}", reason=reason) from error
    kept = [value for value in converted.graph.output if value.name not in inner]
    _replace_values(converted.graph.output, kept)
    _restore_names(converted.graph, model.graph)
    return converted


def _restore_names(converted: onnx.GraphProto, original: onnx.GraphProto) -> None:
    # A node that the converter replaces (Upsample becomes Resize) has no name.
    kept = {node.name for node in converted.node}
    names = {node.output[0]: node.name for node in original.node if node.name not in kept}
    for node in converted.node:
        node.name = node.name or names.get(node.output[0], "")


def _replace_values(values: Any, kept: list[onnx.ValueInfoProto]) -> None:
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del values[:]
    values.extend(copies)
