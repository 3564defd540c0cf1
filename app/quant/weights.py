"""Quantize weights: symmetric int8 along one axis."""

from dataclasses import dataclass

import numpy as np

from app.errors import QuantizeProblem
from app.spec import FloatType

_LARGEST = 127
#: Below this, fp16 steps are coarser than 1/16 of a scale; such scales stay as they are, and their node in fp32.
_LEAST_FLOAT16_SCALE = 2.0**-20


@dataclass(frozen=True)
class QuantizedWeight:
    """`values` int8 in the shape of the weight, `scales` float32[channels] or float32[] (per tensor)."""

    values: np.ndarray
    scales: np.ndarray
    axis: int | None


def quantize_weight(name: str, weight: np.ndarray, axis: int | None, float_type: FloatType) -> QuantizedWeight:
    """Return weight (float32) as int8: value = clip(round(w / scale), -127, 127), scale = max|w| / 127 per channel.

    Rounds half to even, as runtimes do. A channel of zeros gets scale 1. With float_type fp16 scales are rounded to
    fp16 first, so that storing them there changes no weight. Raises QuantizeProblem for NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise QuantizeProblem(reason=f"weight {name} holds NaN or infinity; export a healthy checkpoint")
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)
    scales = scale_from_weight_amax(amax)
    if float_type == "fp16":
        scales = _rounded_to_float16(scales)
    spread = scales if axis is None else scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    values = np.clip(np.rint(weight / spread.astype(np.float64)), -_LARGEST, _LARGEST).astype(np.int8)
    return QuantizedWeight(values, scales, axis)


def scale_from_weight_amax(amax: np.ndarray) -> np.ndarray:
    """Return float32 scales = amax / 127; zeros become 1 and nothing is denormal, which GPUs flush to zero."""
    scales = np.where(amax > 0, amax / _LARGEST, 1.0)
    return np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)


def _rounded_to_float16(scales: np.ndarray) -> np.ndarray:
    fits = (scales >= _LEAST_FLOAT16_SCALE) & (scales <= np.finfo(np.float16).max)
    rounded = np.clip(scales, _LEAST_FLOAT16_SCALE, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
    return np.where(fits, rounded, scales).astype(np.float32)
