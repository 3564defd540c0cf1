"""Write a calibration table into a model as QuantizeLinear and DequantizeLinear pairs."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
import onnx
from onnx import helper, numpy_helper

from app.errors import QuantizeProblem, TableIncomplete, TableScaleInvalid, UnsupportedOption
from app.quant.center import center_activations
from app.quant.channels import report_channels
from app.quant.equalize import equalize_model
from app.quant.float8 import float8_from_int8, why_not_float8
from app.quant.float16 import float16_from_model
from app.quant.given_names import given_tensors, tell_given
from app.quant.graph import arrange_for_placement, find_activations, prepare_model
from app.quant.nodes import Namer, replace_nodes
from app.quant.placement import PlacementPlan, WeightUse, plan_placement
from app.quant.qdq_report import report_placement
from app.quant.saturation import relu_from_saturating
from app.quant.selection import find_excluded
from app.quant.simplify import remove_unused
from app.quant.table import Extremes
from app.quant.tensor_types import infer_types
from app.quant.weights import WeightOptions, least_scale_from_bias, quantize_weight
from app.quant.zero_points import Steps, asymmetric, symmetric
from app.spec import FloatType, QuantizeSpec


@dataclass(frozen=True)
class QuantizedModel:
    """A Q/DQ model and what was done to it.

    `qdq_report.report_placement` describes the fields, but `channels`: `channels.report_channels`, and `equalized`:
    `equalize.equalize_model`, and `centred`: `center.center_activations`. `float_model`: what it was made from, prepared,
    equalized, centred. `given`: what the model given calls nodes' outputs and weights that have other names in these two.
    """

    model: onnx.ModelProto
    report: dict[str, Any]
    float_model: onnx.ModelProto
    given: Mapping[str, str]


#: Gets the prepared float model and its Q/DQ model, changes weights and biases of the latter, returns what was done.
Tune = Callable[[onnx.ModelProto, onnx.ModelProto], dict[str, Any]]


def quantize_model(
    model: onnx.ModelProto,
    scales: Mapping[str, SupportsFloat],
    spec: QuantizeSpec,
    dead: Collection[str] = (),
    tune: Tune | None = None,
    extremes: Extremes | None = None,
) -> QuantizedModel:
    """Return model with Q/DQ pairs: symmetric int8, zero point 0, int8 weights per output channel, float bias.

    `scales` holds float32 scales by tensor name; more than needed do no harm. Nodes that read one of the `dead`
    tensors (zero on every image, so without a scale) stay float. With `equalize` the scales are those of the equalized
    model. With `asymmetric` activations have zero points, from the `extremes` that were observed of a tensor where they are
    known. `tune` is needed where the spec asks for bias correction or weight rounding. With `format` fp8 matrix
    products alone have pairs, with E4M3 between them. The same input gives the same bytes.

    Raises SpecProblem (unknown exclude), UnsupportedOption, TableIncomplete, TableScaleInvalid, QuantizeProblem
    (nothing to quantize, unusable weights) and what `prepare_model` raises.
    """
    _check_options(spec, is_tuned=tune is not None)
    prepared = prepare_model(model)
    equalized = equalize_model(prepared) if spec.equalize else []  # first: that model is the one that was observed
    if spec.format == "int8":
        arrange_for_placement(prepared, spec.placement)
    given = given_tensors(model.graph, prepared.graph)
    excluded = find_excluded(spec.exclude, model.graph, prepared.graph)
    types = infer_types(prepared)
    float_nodes = _float_nodes(prepared, set(dead), set(find_activations(model)))
    float_nodes |= {output: f"excluded by {entry}" for output, entry in excluded.items()}
    if spec.format == "fp8":
        float_nodes |= {node.output[0]: why for node in prepared.graph.node if (why := why_not_float8(node))}
    plan = plan_placement(prepared, types, spec.placement, float_nodes)
    if not plan.reads:
        raise QuantizeProblem(reason=f"nothing in it can become {spec.format.upper()} ({_why_nothing(plan)})")
    chosen = _choose_scales(plan, scales)
    report = report_placement(prepared, types, plan, spec)
    report |= {"channels": report_channels(prepared.graph, plan), "equalized": equalized}
    report["centred"] = center_activations(prepared.graph, plan, chosen) if spec.center else []
    before = copy_model(prepared)
    steps = (
        asymmetric(prepared.graph, chosen, extremes or {}, _same_scale_groups(plan)) if spec.asymmetric else symmetric(chosen)
    )
    _write_pairs(prepared.graph, plan, steps, spec.float_type)
    remove_unused(prepared.graph)
    if tune:
        report["tuned"] = tune(before, prepared)
    tell_given(report, given)
    if spec.placement == "fused":
        relu_from_saturating(prepared.graph)
    if spec.format == "fp8":
        prepared = float8_from_int8(prepared, before, spec.float_type)
    if spec.float_type == "fp16":
        amax = {name: 127 * float(scale) for name, scale in scales.items()}
        prepared, report["kept_fp32"] = float16_from_model(prepared, amax, keeps_outputs=spec.placement == "fused")
    _check(prepared)
    return QuantizedModel(prepared, report, before, given)


def model_to_bytes(model: onnx.ModelProto) -> bytes:
    """Return the ONNX file; the same model gives the same bytes."""
    return model.SerializeToString(deterministic=True)


def _check_options(spec: QuantizeSpec, is_tuned: bool) -> None:
    needs_images = {
        "quantize.bias_correction or weight_rounding": spec.is_tuned and not is_tuned,
        "quantize.exclude auto": spec.excludes_automatically,
    }
    for option, is_asked in needs_images.items():
        if is_asked:
            raise UnsupportedOption(option=option, reason="it needs images, so it is to be had from a job alone")


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that shares nothing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _float_nodes(prepared: onnx.ModelProto, dead: set[str], observed: set[str]) -> dict[str, str]:
    made = set(find_activations(prepared)) - observed
    reasons: dict[str, str] = {}
    for node in prepared.graph.node:
        for name in node.input:
            if name in dead:
                reasons[node.output[0]] = f"{name} was zero on every image"
            elif name in made:
                reasons[node.output[0]] = f"{name} came to be when the model's opset was raised"
    return reasons


def _why_nothing(plan: PlacementPlan) -> str:
    reasons = sorted(set(plan.kept_float.values()))
    return (
        "; ".join(reasons[:4])
        or "it has no Conv, ConvTranspose, Gemm or MatMul in float32, but perhaps inside If, Loop or Scan, which stays float"
    )


def _choose_scales(plan: PlacementPlan, scales: Mapping[str, SupportsFloat]) -> dict[str, np.float32]:
    missing = [name for name in plan.tensors if name not in scales]
    if missing:
        raise TableIncomplete(tensors=missing)
    chosen = {name: np.float32(float(scales[name])) for name in plan.tensors}
    for name, scale in chosen.items():
        if not (np.isfinite(scale) and scale > 0):
            raise TableScaleInvalid(tensor=name, value=float(scale))
    for group in _same_scale_groups(plan):
        largest = max(chosen[name] for name in group)
        chosen.update(dict.fromkeys(group, largest))
    return chosen


def _same_scale_groups(plan: PlacementPlan) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for first, second in plan.same_scale:
        one, other = groups.get(first, [first]), groups.get(second, [second])
        merged = one if one is other else one + other
        groups.update(dict.fromkeys(merged, merged))
    return list({id(group): group for group in groups.values()}.values())


class _Writer:
    """Collects nodes and initializers of Q/DQ pairs."""

    def __init__(self, graph: onnx.GraphProto, float_type: FloatType) -> None:
        self.graph = graph
        self.float_type: FloatType = float_type
        self.namer = Namer(graph)
        self._arrays = {tensor.name: tensor for tensor in graph.initializer}

    def constant(self, wish: str, value: np.ndarray) -> str:
        name = self.namer.name(wish)
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def zero_point(self, tensor: str, value: np.ndarray) -> str:
        # One each: ONNX Runtime's optimizer makes a tensor named after a zero point, and fails on one that is shared.
        return self.constant(f"{tensor}_zero_point", value)

    def activation_pair(self, tensor: str, steps: Steps) -> tuple[str, list[onnx.NodeProto]]:
        zero_point = self.zero_point(tensor, np.array(steps.zero_point, np.int8))
        parameters = [self.constant(f"{tensor}_scale", np.array(steps.scale, np.float32)), zero_point]
        quantized, result = self.namer.name(f"{tensor}_quantized"), self.namer.name(f"{tensor}_dequantized")
        names = [self.namer.name(f"{tensor}_{op}") for op in ("QuantizeLinear", "DequantizeLinear")]
        return result, [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [quantized], name=names[0]),
            helper.make_node("DequantizeLinear", [quantized, *parameters], [result], name=names[1]),
        ]

    def weight(self, node: onnx.NodeProto, use: WeightUse, scale: np.float32) -> tuple[str, onnx.NodeProto]:
        # A copy for each node that reads it: ONNX Runtime's optimizer fails on a quantized weight that is shared.
        tensor, bias = use.tensor, node.input[2] if len(node.input) > 2 else ""
        value = numpy_helper.to_array(self._arrays[bias]) if bias in self._arrays else None
        options = WeightOptions(use.axis, least_scale_from_bias(value, float(scale)), self.float_type)
        weight = quantize_weight(tensor, numpy_helper.to_array(self._arrays[tensor]), options)
        inputs = [self.constant(f"{tensor}_int8", weight.values), self.constant(f"{tensor}_scale", weight.scales)]
        result, name = self.namer.name(f"{tensor}_dequantized"), self.namer.name(f"{tensor}_DequantizeLinear")
        inputs.append(self.zero_point(tensor, np.zeros(weight.scales.shape, np.int8)))
        return result, helper.make_node("DequantizeLinear", inputs, [result], name=name, axis=use.axis)


def _write_pairs(graph: onnx.GraphProto, plan: PlacementPlan, steps: Mapping[str, Steps], float_type: FloatType) -> None:
    writer = _Writer(graph, float_type)
    pairs = {name: writer.activation_pair(name, of_tensor) for name, of_tensor in steps.items()}
    written: list[onnx.NodeProto] = []
    for value in graph.input:
        written.extend(pairs[value.name][1] if value.name in pairs else [])
    for node in graph.node:
        reads = plan.reads.get(node.output[0])
        if reads and reads.weight:
            scale = steps[node.input[reads.activations[0]]].scale
            node.input[reads.weight.position], pair = writer.weight(node, reads.weight, scale)
            written.append(pair)
        for position in reads.activations if reads else ():
            node.input[position] = pairs[node.input[position]][0]
        written.append(node)
        for output in node.output:
            written.extend(pairs[output][1] if output in pairs else [])
    replace_nodes(graph, written)


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise QuantizeProblem(reason=f"the Q/DQ model is not valid ONNX: {error}") from error
