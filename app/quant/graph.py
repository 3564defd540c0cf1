"""Prepare an ONNX graph for quantization, and name its activations."""

import onnx

from app.errors import ModelAlreadyQuantized, ModelUnsupportedOp
from app.quant.affine import fold_affine
from app.quant.folding import fold_constants
from app.quant.heads import convolve_heads
from app.quant.nodes import FLOAT_TYPES, find_fixed, find_subgraphs
from app.quant.opset import LOWEST_OPSET, raise_opset
from app.quant.placement import PLACEMENTS, plan_placement
from app.quant.signature import correct_output_shapes, forget_unknown_sizes
from app.quant.simplify import merge_pads, remove_identities, remove_unused, unify_sums
from app.quant.tensor_types import infer_types
from app.quant.transposes import sink_transposes

_QUANTIZED_OPS = frozenset(
    "QuantizeLinear DequantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear".split()
)


def prepare_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same function that is ready for Q/DQ; the model given stays as it is.

    Opset 13 or newer, constants folded into initializers, Identity and Dropout removed, Transposes that cancel gone,
    BatchNormalization and constant gains and shifts of channels folded into the convolution before them (whose output
    takes their name), zero Pads moved into the Conv behind them, nothing unused. Subgraphs stay as they are. Activations
    that remain keep their names. Preparing a prepared model changes nothing.

    Raises ModelAlreadyQuantized, ModelUnsupportedOp (the opset cannot be converted; functions) and ModelInvalidGraph.
    """
    _check_not_quantized(model.graph)
    _check_no_functions(model)
    prepared = raise_opset(model, LOWEST_OPSET)
    graph = prepared.graph
    forget_unknown_sizes(graph)
    fold_constants(prepared)
    remove_identities(graph)
    unify_sums(graph)
    sink_transposes(graph)
    fold_affine(graph)
    merge_pads(graph)
    remove_unused(graph)
    del graph.value_info[:]  # may name what is gone
    correct_output_shapes(prepared)
    return prepared


def arrange_for_placement(prepared: onnx.ModelProto, placement: str) -> None:
    """Write a prepared model, in place, the way that a placement's runtime is fastest with."""
    if placement == "fused":
        convolve_heads(prepared)


def find_activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of all float activations of the main graph, graph inputs and outputs included, in graph order.

    No constants, nothing computed from constants or shapes alone, however it is wrapped.
    """
    types, fixed = infer_types(model), find_fixed(model.graph)
    names = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output if name]
    names = [name for name in names if name not in fixed]
    return [name for name in names if name in types and types[name].element in FLOAT_TYPES]


def find_needed_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the names of the tensors that any placement may quantize, in graph order: a function of the model alone.

    Every name is an activation of the model as given. Raises like `prepare_model`.
    """
    prepared = prepare_model(model)
    wanted: set[str] = set()
    for placement in PLACEMENTS:  # fused comes last
        arrange_for_placement(prepared, placement)
        wanted.update(plan_placement(prepared, infer_types(prepared), placement).tensors)
    return [name for name in find_activations(model) if name in wanted]


def _check_not_quantized(graph: onnx.GraphProto) -> None:
    inner = [node for outer in graph.node for subgraph in find_subgraphs(outer) for node in subgraph.node]
    for node in [*graph.node, *inner]:
        if node.op_type in _QUANTIZED_OPS:
            raise ModelAlreadyQuantized(node=node.name or node.output[0], op=node.op_type)


def _check_no_functions(model: onnx.ModelProto) -> None:
    if model.functions:
        reason = "functions of its own hide what they compute; inline them (onnx.inliner.inline_local_functions)"
        raise ModelUnsupportedOp(node="(all)", op=f"the function {model.functions[0].name}", reason=reason)
