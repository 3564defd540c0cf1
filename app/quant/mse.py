"""The amax whose INT8 grid has the smallest mean squared error on a histogram."""

import numpy as np
import numpy.typing as npt

from app.quant.compiled import compiled

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

#: The candidates are absmax * k / 2048: every eighth k from 64 on, then every k around the best of those.
COARSE_STEP = 8
#: Before, every so many-th coarse one: the least error of those is a bound that most others soon pass.
_PROBE_STEP = 16
#: What sums of squares may differ by in rounding, of the sum of all, and far more.
_ROUNDING = 1e-9


def mse_amax(counts: Whole, width: float, absmax: float) -> float:
    """Return the best amax (float64) for int64[B] counts of magnitude with that bin width; of ties the largest.

    Every value stands at the centre of its bin, no further out than absmax, and is rounded to the nearest of the 128
    levels k * amax / 127. With the prefix sums of h, h x and h x^2 a level costs three subtractions.
    """
    moments = _sum_moments(counts, width, absmax)
    candidates = np.arange(2048, 63, -COARSE_STEP)
    _, bound = _find_best(moments, width, absmax, candidates[::_PROBE_STEP], np.inf)
    coarse, _ = _find_best(moments, width, absmax, candidates, bound + _ROUNDING * moments[-1, 2])
    around = np.arange(min(coarse + COARSE_STEP, 2048), coarse - COARSE_STEP, -1)
    best, _ = _find_best(moments, width, absmax, around, np.inf)
    return absmax * int(best) / 2048


@compiled
def _sum_moments(counts: Whole, width: float, absmax: float) -> Floats:
    # float64[B + 1, 3]: sums of h, h x and h x^2 of the bins before each one.
    moments = np.zeros((counts.size + 1, 3))
    for place in range(counts.size):
        # The first bin is mostly exact zeros, which cost nothing.
        centre = min((place + 0.5) * width, absmax) if place else 0.0
        moments[place + 1, 0] = moments[place, 0] + counts[place]
        moments[place + 1, 1] = moments[place, 1] + counts[place] * centre
        moments[place + 1, 2] = moments[place, 2] + counts[place] * (centre * centre)
    return moments


@compiled
def _find_best(moments: Floats, width: float, absmax: float, candidates: Whole, limit: float) -> tuple[int, float]:
    # Returns the first of the candidates with the least error, and that error; the first one where none is below the limit.
    bins = moments.shape[0] - 1
    least = limit
    best = candidates[0]
    slack = _ROUNDING * moments[bins, 2]
    for candidate in candidates:
        scale = absmax * candidate / (2048 * 127)
        if _level_error(moments, 127 * scale, _edge(126, scale, width, bins), bins) >= least + slack:
            continue  # what is cut off alone costs more
        error = 0.0
        start = 0
        for level in range(128):
            end = bins if level == 127 else max(start, _edge(level, scale, width, bins))
            error += _level_error(moments, level * scale, start, end)
            if error >= least:
                break
            start = end
        if error < least:
            least = error
            best = candidate
    return best, least


@compiled
def _edge(level: int, scale: float, width: float, bins: int) -> int:
    # Bin j rounds to this level while its centre, (j + 0.5) * width, is below (level + 0.5) * scale.
    return min(bins, int(np.ceil((level + 0.5) * scale / width - 0.5)))


@compiled
def _level_error(moments: Floats, value: float, start: int, end: int) -> float:
    squares = moments[end, 2] - moments[start, 2]
    products = moments[end, 1] - moments[start, 1]
    return squares - value * (2 * products - value * (moments[end, 0] - moments[start, 0]))
