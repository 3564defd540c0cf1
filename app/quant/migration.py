"""What changes when a model leaves implicit quantization (a cache, TensorRT up to 10) for explicit Q/DQ pairs.

Implicit: a layer may run in INT8 where all its activations have a scale, and weights are quantized by the builder.
Explicit: exactly what stands between Q/DQ pairs is INT8.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from app.quant.float8 import scale_of_float8
from app.quant.nodes import Index, get_attribute, index_graph
from app.quant.zero_points import Steps

_PAIR_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: What a runtime computes inside the convolution or product before it.
_FUSED_OPS = frozenset("Add Clip Elu HardSigmoid HardSwish LeakyRelu Mul PRelu Relu Sigmoid Tanh".split())
#: No INT8 kernel exists for these, so a scale had no effect on them.
_NEVER_INT8 = frozenset(
    "Cast Constant Dropout Erf Exp Identity InstanceNormalization LayerNormalization Log Shape Softmax Sqrt".split()
)
_BIAS_INPUT = 2


@dataclass(frozen=True)
class Cache:
    """What the old calibration had: amax by tensor, and the reasons of nodes with weights that stay float now."""

    amax: Mapping[str, float]
    kept_float: Mapping[str, str]


def report_migration(model: onnx.ModelProto, cache: Cache) -> dict[str, Any]:
    """Return what of the cache lives on in a Q/DQ model, as JSON values.

    model: with the names of its float tensors, see `float16_names`.
    tensors: cache, pairs, zero_points: how many had a scale, have a Q/DQ pair, have one with a zero point; lost: {tensor,
    reason}; gained: names; changed: {tensor, cache, now, zero_point}: the scales, and the zero point, which is 0 in a cache ·
    layers: int8: how many read INT8; float: {node, op, reason} of those that the cache allowed in INT8 and that are float
    now · weights: {node, weight, scales: channel or tensor, channels} · bias: how many stay float.
    """
    scene = _read(model)
    return {
        "tensors": _tensors(scene, cache),
        "layers": {"int8": len(scene.int8), "fused": len(scene.fused), "float": list(_float_layers(scene, cache))},
        "weights": list(_weights(scene)),
        "bias": {"float": sum(1 for node in scene.int8.values() if _has_bias(node, scene.index)), "int8": 0},
    }


@dataclass(frozen=True)
class _Stored:
    """How a pair is stored: the type of its scale, and whether int8 lies between, else fp8."""

    scale_type: np.dtype
    is_int8: bool


@dataclass(frozen=True)
class _Scene:
    nodes: list[onnx.NodeProto]
    index: Index
    #: Steps of each activation with a pair, and how they are stored.
    pairs: dict[str, Steps]
    stored: dict[str, _Stored]
    #: Nodes that read INT8, and those that are computed inside of one, by first output.
    int8: dict[str, onnx.NodeProto]
    fused: dict[str, onnx.NodeProto]


def _read(model: onnx.ModelProto) -> _Scene:
    index = index_graph(model.graph)
    nodes = [node for node in model.graph.node if node.op_type not in _PAIR_OPS]
    pairs, types = {}, {}
    for node in model.graph.node:
        scale, zero_point = (
            (index.array(name) for name in node.input[1:3]) if node.op_type == "QuantizeLinear" else (None, None)
        )
        if scale is not None and zero_point is not None:
            pairs[node.input[0]] = Steps(np.float32(scale.reshape(())), int(zero_point.reshape(())))
            types[node.input[0]] = _Stored(scale.dtype, np.issubdtype(zero_point.dtype, np.integer))
    int8 = {node.output[0]: node for node in nodes if any(_is_dequantized(name, index) for name in node.input)}
    return _Scene(nodes, index, pairs, types, int8, _find_fused(nodes, index, int8))


def _is_dequantized(name: str, index: Index) -> bool:
    maker = index.producers.get(name)
    return maker is not None and maker.op_type == "DequantizeLinear"


def _find_fused(nodes: list[onnx.NodeProto], index: Index, int8: Mapping[str, onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    fused: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        if node.op_type not in _FUSED_OPS or node.output[0] in int8:
            continue
        if any((name in int8 or name in fused) and _is_inside(name, node, index) for name in node.input):
            fused[node.output[0]] = node
    return fused


def _is_inside(name: str, node: onnx.NodeProto, index: Index) -> bool:
    # SiLU reads the convolution twice, as itself and through the Sigmoid
    readers = index.consumers.get(name, [])
    return name not in index.protected and all(reader is node or reader.op_type in _FUSED_OPS for reader in readers)


def _tensors(scene: _Scene, cache: Cache) -> dict[str, Any]:
    cached = {name: _cached(amax, scene.stored.get(name)) for name, amax in cache.amax.items()}
    changed = {name: steps for name, steps in scene.pairs.items() if name in cached and steps != cached[name]}
    return {
        "cache": len(cached),
        "pairs": len(scene.pairs),
        "zero_points": sum(steps.zero_point != 0 for steps in scene.pairs.values()),
        "lost": [{"tensor": name, "reason": _why_lost(name, scene)} for name in cached if name not in scene.pairs],
        "gained": [name for name in scene.pairs if name not in cached],
        "changed": [_changed(name, cached[name], steps) for name, steps in changed.items()],
    }


def _cached(amax: float, stored: _Stored | None) -> Steps:
    # That fp8 counts other steps, and fp16 rounds them, is no change.
    scale = np.float32(amax / 127)
    if stored is not None:
        scale = scale if stored.is_int8 else scale_of_float8(scale)
        scale = np.float32(scale.astype(stored.scale_type))
    return Steps(scale)


def _changed(name: str, cached: Steps, now: Steps) -> dict[str, Any]:
    return {"tensor": name, "cache": float(cached.scale), "now": float(now.scale), "zero_point": now.zero_point}


def _why_lost(name: str, scene: _Scene) -> str:
    if any(reader.output[0] in scene.fused for reader in scene.index.consumers.get(name, [])):
        return "it lies inside a fusion, where nothing is rounded"
    if name in scene.index.protected:
        return "an output of the model stays float"
    if name not in scene.index.producers and name not in scene.index.consumers:
        return "preparing the model removed it (BatchNormalization, Pad, Identity, constants; a head that is a convolution now)"
    return "nothing that reads it is INT8"


def _float_layers(scene: _Scene, cache: Cache) -> Iterator[dict[str, Any]]:
    for node in scene.nodes:
        made = node.output[0]
        if made in scene.int8 or made in scene.fused or node.op_type in _NEVER_INT8:
            continue
        name = node.name or made
        activations = [each for each in (*node.input, *node.output) if each and each not in scene.index.constants]
        if name in cache.kept_float or (activations and all(each in cache.amax for each in activations)):
            reason = cache.kept_float.get(name, "it has no weights, and no pair stands around it in this placement")
            yield {"node": name, "op": node.op_type, "reason": reason}


def _weights(scene: _Scene) -> Iterator[dict[str, Any]]:
    for node in scene.int8.values():
        for name in node.input:
            maker = scene.index.producers.get(name)
            if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in scene.index.constants:
                continue
            scales = scene.index.array(maker.input[1])
            channels = 1 if scales is None else scales.size
            kind = "channel" if scales is not None and scales.ndim else "tensor"
            row = {"node": node.name or node.output[0], "weight": maker.input[0], "scales": kind, "channels": channels}
            yield row | {"axis": get_attribute(maker, "axis", 1) if kind == "channel" else None}


def _has_bias(node: onnx.NodeProto, index: Index) -> bool:
    is_weighted = node.op_type in ("Conv", "ConvTranspose", "Gemm")
    return is_weighted and len(node.input) > _BIAS_INPUT and node.input[_BIAS_INPUT] in index.constants
