"""Prepare an ONNX graph for quantization, and name its activations."""

import onnx

from app.errors import ModelAlreadyQuantized
from app.quant.folding import fold_constants
from app.quant.nodes import FLOAT_TYPES
from app.quant.opset import LOWEST_OPSET, raise_opset
from app.quant.placement import PLACEMENTS, plan_placement
from app.quant.simplify import fold_batchnorms, merge_pads, remove_identities, remove_unused
from app.quant.tensor_types import infer_types

_QUANTIZED_OPS = frozenset(
    "QuantizeLinear DequantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear".split()
)


def prepare_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same function that is ready for Q/DQ; the model given stays as it is.

    Opset 13 or newer, constants folded into initializers, Identity and Dropout removed, BatchNormalization folded into
    the convolution before it (whose output takes its name), zero Pads moved into the Conv behind them, nothing unused.
    Activations that remain keep their names. Preparing a prepared model changes nothing.

    Raises ModelAlreadyQuantized, ModelUnsupportedOp (opset cannot be converted) and ModelInvalidGraph.
    """
    _check_not_quantized(model.graph)
    prepared = raise_opset(model, LOWEST_OPSET)
    graph = prepared.graph
    fold_constants(prepared)
    remove_identities(graph)
    fold_batchnorms(graph)
    merge_pads(graph)
    remove_unused(graph)
    del graph.value_info[:]  # may name what is gone
    return prepared


def find_activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of all float activations of the main graph, graph inputs and outputs included, in graph order.

    No constants, nothing computed from constants or shapes alone, however it is wrapped.
    """
    types = infer_types(model)
    fixed = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in fixed]
    for node in model.graph.node:
        if node.op_type in ("Shape", "Size") or all(name in fixed for name in node.input if name):
            fixed.update(node.output)
        else:
            names.extend(name for name in node.output if name)
    return [name for name in names if name in types and types[name].element in FLOAT_TYPES]


def find_needed_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the names of the tensors that any placement may quantize, in graph order: a function of the model alone.

    Every name is an activation of the model as given. Raises like `prepare_model`.
    """
    prepared = prepare_model(model)
    types = infer_types(prepared)
    wanted: set[str] = set()
    for placement in PLACEMENTS:
        wanted.update(plan_placement(prepared, types, placement).tensors)
    return [name for name in find_activations(model) if name in wanted]


def _check_not_quantized(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in _QUANTIZED_OPS:
            raise ModelAlreadyQuantized(node=node.name or node.output[0], op=node.op_type)
