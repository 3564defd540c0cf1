"""The methods: one histogram to one amax, the largest magnitude that INT8 keeps."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from app.errors import CalibrationProblem, UnsupportedOption
from app.quant.entropy import entropy_amax
from app.quant.histogram import Histogram
from app.quant.mse import mse_amax

DerivedMethod: TypeAlias = Literal["entropy", "minmax", "percentile", "mse"]

#: The smallest amax whose scale is a normal float32 number.
MIN_AMAX = 127 * float(np.finfo(np.float32).tiny)


def compute_amax(histogram: Histogram, method: DerivedMethod, percentile: float = 99.99) -> float:
    """Return the amax (float64, > 0) of histogram by method; percentile is in (0, 100] and for that method alone.

    Raises CalibrationProblem for a histogram without any value other than zero (`is_dead` tells).
    """
    if is_dead(histogram):
        raise CalibrationProblem(reason="a tensor that was zero on every image has no amax")
    return max(_METHODS[method](histogram, percentile), MIN_AMAX)


def parse_method(name: str) -> DerivedMethod:
    """Return name if it is a method that reduces histograms; raises UnsupportedOption otherwise."""
    for method in _METHODS:
        if method == name:
            return method
    raise UnsupportedOption(option=f"method {name}", reason=f"histograms are reduced by {', '.join(_METHODS)}")


def is_dead(histogram: Histogram) -> bool:
    """Whether no scale exists: only zeros (or magnitudes whose scale would not be a normal float32) were seen."""
    return histogram.absmax < MIN_AMAX


def minmax_amax(histogram: Histogram) -> float:
    """Return the largest magnitude seen."""
    return histogram.absmax


def percentile_amax(histogram: Histogram, percentile: float) -> float:
    """Return the magnitude that percentile percent of the values do not exceed, interpolated within its bin.

    A tensor that is zero more often than that has no such magnitude above zero and keeps its absmax.
    """
    counts, width = histogram.magnitude_bins()
    cumulative = np.cumsum(counts)
    wanted = percentile / 100 * int(cumulative[-1])
    place = int(np.searchsorted(cumulative, wanted))
    if place == 0 or percentile == 100:
        return histogram.absmax
    inside = (wanted - int(cumulative[place - 1])) / int(counts[place])
    return min((place + inside) * width, histogram.absmax)


def _entropy(histogram: Histogram, _: float) -> float:
    return entropy_amax(*histogram.search_bins())


def _minmax(histogram: Histogram, _: float) -> float:
    return minmax_amax(histogram)


def _mse(histogram: Histogram, _: float) -> float:
    counts, width = histogram.magnitude_bins()
    return mse_amax(counts, width, histogram.absmax)


_METHODS: dict[DerivedMethod, Callable[[Histogram, float], float]] = {
    "entropy": _entropy,
    "minmax": _minmax,
    "percentile": percentile_amax,
    "mse": _mse,
}
