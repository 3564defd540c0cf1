"""Quantize weights: symmetric int8 along one axis."""

from dataclasses import dataclass

import numpy as np

from app.errors import QuantizeProblem
from app.spec import FloatType

_LARGEST = 127
#: Half of what int32 holds: room for the products beside the bias.
_LARGEST_BIAS_STEPS = 2.0**30
_LEAST_FLOAT16 = 2.0**-24
_LEAST_NORMAL_FLOAT16 = 2.0**-14


@dataclass(frozen=True)
class WeightOptions:
    """How a weight is quantized: along `axis` (None: per tensor), its scales at least `least_scale` (float64).

    With float_type fp16 every scale is a number that fp16 holds, so that storing it there changes no weight.
    """

    axis: int | None
    least_scale: np.ndarray
    float_type: FloatType = "fp32"


@dataclass(frozen=True)
class QuantizedWeight:
    """`values` int8 in the shape of the weight, `scales` float32[channels] or float32[] (per tensor)."""

    values: np.ndarray
    scales: np.ndarray


def quantize_weight(name: str, weight: np.ndarray, options: WeightOptions) -> QuantizedWeight:
    """Return weight (float32) as int8: value = clip(round(w / scale), -127, 127), scale = max|w| / 127 per channel.

    Rounds half to even, as runtimes do. A channel of zeros gets scale 1. Raises QuantizeProblem for NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise QuantizeProblem(reason=f"weight {name} holds NaN or infinity; export a healthy checkpoint")
    axis = options.axis
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)
    scales = _scale_from_weight_amax(amax, options)
    spread = scales if axis is None else scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    values = np.clip(np.rint(weight / spread.astype(np.float64)), -_LARGEST, _LARGEST).astype(np.int8)
    return QuantizedWeight(values, scales)


def least_scale_from_bias(bias: np.ndarray | None, activation_scale: float) -> np.ndarray:
    """Return |bias| / (activation scale * 2^30): with smaller weight scales the bias would not fit into int32.

    ONNX Runtime stores it as int32 in steps of activation scale * weight scale, and saturates. Channels whose weights
    are nearly zero beside their bias get there; the coarser scale costs them less than 1e-7 of the bias a weight.
    """
    return np.zeros(()) if bias is None else np.abs(bias.astype(np.float64)) / (activation_scale * _LARGEST_BIAS_STEPS)


def _scale_from_weight_amax(amax: np.ndarray, options: WeightOptions) -> np.ndarray:
    least = options.least_scale
    floor = least if least.shape == amax.shape else np.full(amax.shape, least.max(initial=0.0))
    return round_scales(np.where(amax > 0, np.maximum(amax / _LARGEST, floor), 1.0), options.float_type)


def round_scales(scales: np.ndarray, float_type: FloatType) -> np.ndarray:
    """Return scales as float32, of numbers that float_type holds; none is denormal: GPUs flush that to zero."""
    kept = np.maximum(scales, np.finfo(np.float32).tiny)
    return (_float16_scales(kept) if float_type == "fp16" else kept).astype(np.float32)


def _float16_scales(scales: np.ndarray) -> np.ndarray:
    # An fp16 weight has steps of 2^-24 as well. Where steps are coarse, rounding down would cut the largest weights.
    coarse = np.ceil(scales / _LEAST_FLOAT16) * _LEAST_FLOAT16
    fine = np.clip(scales, 0, float(np.finfo(np.float16).max)).astype(np.float16).astype(np.float64)
    return np.where(scales < _LEAST_NORMAL_FLOAT16, coarse, fine)
