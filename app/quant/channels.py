"""What the weights alone say about INT8: how unlike the channels of each are, and which are dead or lost."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from app.quant.nodes import get_int
from app.quant.placement import PlacementPlan, WeightUse

#: A magnitude below half a step of the largest one rounds to zero: 127 steps reach the largest.
HALF_STEP = 0.5 / 127
#: So many channels are named for each weight; the counts are of all.
_MOST_NAMED = 64


def report_channels(graph: onnx.GraphProto, plan: PlacementPlan) -> list[dict[str, Any]]:
    """Return a row for every weight that becomes INT8, the most unlike channels first, as JSON values.

    node, weight: names · scales: `channel` or `tensor` · channels: output channels · ratio: amax of the largest over
    that of the smallest live one (null without any) · dead: output channels of zeros · faint: live ones below half a
    step of the largest, which a scale per tensor would round to zero · lost_inputs: input channels of a Conv (not a
    grouped one) that every output channel's own scale rounds to zero. The last three are {count, channels: the first 64}.
    """
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.output[0] in plan.reads]
    rows = []
    for node in nodes:
        use = plan.reads[node.output[0]].weight
        if use is not None:
            rows.append(_row(node, use, arrays))
    return sorted(rows, key=lambda row: -(row["ratio"] or 0))


def channel_amax(weight: np.ndarray, axis: int) -> np.ndarray:
    """Return float64[channels]: the largest magnitude of each slice of weight along axis."""
    others = tuple(place for place in range(weight.ndim) if place != axis)
    return np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)


def spread_of(amax: np.ndarray) -> float | None:
    """Return the largest over the smallest of the amax above zero; None where all are zero."""
    live = amax[amax > 0]
    return float(live.max() / live.min()) if live.size else None


def _row(node: onnx.NodeProto, use: WeightUse, arrays: Mapping[str, onnx.TensorProto]) -> dict[str, Any]:
    weight = numpy_helper.to_array(arrays[use.tensor])
    amax = channel_amax(weight, _output_axis(node, use, weight.ndim))
    faint = (amax > 0) & (amax < amax.max(initial=0.0) * HALF_STEP)
    return {
        "node": node.name or node.output[0],
        "weight": use.tensor,
        "scales": "tensor" if use.axis is None else "channel",
        "channels": int(amax.size),
        "ratio": spread_of(amax),
        "dead": _named(amax == 0),
        "faint": _named(faint),
        "lost_inputs": _named(_lost_inputs(node, weight)),
    }


def _output_axis(node: onnx.NodeProto, use: WeightUse, rank: int) -> int:
    if use.axis is not None:
        return use.axis
    return 1 if node.op_type == "ConvTranspose" else (rank - 1 if use.position else rank - 2)


def _lost_inputs(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    if node.op_type != "Conv" or get_int(node, "group", 1) != 1 or weight.ndim < 3:
        return np.zeros(0, bool)
    magnitudes = np.abs(weight.reshape(*weight.shape[:2], math.prod(weight.shape[2:]))).max(axis=2)
    limits = magnitudes.max(axis=1, keepdims=True) * HALF_STEP
    is_lost = (magnitudes < limits) | (limits == 0)  # a dead output channel loses nothing
    return is_lost.all(axis=0) & (magnitudes.max(axis=0) > 0)


def _named(chosen: np.ndarray) -> dict[str, Any]:
    channels = np.flatnonzero(chosen)
    return {"count": int(channels.size), "channels": channels[:_MOST_NAMED].tolist()}
