"""The searches of thresholds, compiled by `app.native.build`; `app.quant.entropy` and `app.quant.mse` call them.

What they take are addresses of contiguous arrays and whole numbers, as documented there. They return a whole number.
"""

import numpy as np
import numpy.typing as npt
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage] - public by its documentation
    njit,
    types,
)

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

inlined = njit(nogil=True, error_model="numpy", inline="always")

#: Divergences nearer than this (in nats) are ties: prefix sums round differently from a plain sum.
TIE_NATS = 1e-13
#: The candidates for the least squared error are absmax * k / 2048: every eighth k from 64 on, then every k around the best.
_COARSE_STEP = 8
#: Before, every so many-th coarse one: the least error of those is a bound that most others soon pass.
_PROBE_STEP = 16
#: What sums of squares may differ by in rounding, of the sum of all, and far more.
_ROUNDING = 1e-9


def search_entropy(counts_at, mass_at, entropy_at, occupied_at, ties_at):
    """Write the ranges of the least divergence to ties, the widest first, and return how many; see `app.quant.entropy`."""
    # In units of total * KL(P || Q), with P = counts / total and Q spread over the occupied bins of each level:
    #   sum over levels of (sum h log h - s log(s / c)) + what the outliers in the last bin add + total log(S / total)
    # where s, c and S are the counts of a level, its occupied bins, and the counts of the whole range.
    # Every level's term is >= 0 (log-sum inequality), so a candidate is given up once it passes the best.
    counts, mass, entropy = carray(counts_at, 2048), carray(mass_at, 2049), carray(entropy_at, 2049)
    occupied, ties = carray(occupied_at, 2049), carray(ties_at, 2048)
    total = mass[2048]
    slack = TIE_NATS * total
    found = 0
    best = np.inf
    for bins in range(2048, 127, -1):
        last = counts[bins - 1]
        outliers = total - mass[bins]
        if occupied[bins] < 2 or (last == 0.0 and outliers > 0.0):
            continue
        divergence = 0.0
        if outliers > 0.0:
            first = (127 * bins + 127) // 128
            mean = (mass[bins] - mass[first]) / (occupied[bins] - occupied[first])
            moved = last + outliers
            divergence = moved * np.log(moved) - last * np.log(last) - outliers * np.log(mean)
            divergence -= total * np.log(total / mass[bins])
        start = 0
        for level in range(1, 129):
            end = (level * bins + 127) // 128
            inside = occupied[end] - occupied[start]
            if inside > 1:
                summed = mass[end] - mass[start]
                divergence += entropy[end] - entropy[start] - summed * np.log(summed / inside)
                if divergence > best + slack:
                    break
            start = end
        if divergence < best - slack:
            best = divergence
            found = 0
        if divergence <= best + slack:
            ties[found] = bins
            found += 1
    return found


@inlined
def _sum_moments(counts: Whole, bins: int, width: float, absmax: float, moments: Floats) -> None:
    # moments float64[B + 1, 3]: sums of h, h x and h x^2 of the bins before each one.
    for moment in range(3):
        moments[0, moment] = 0.0
    for place in range(bins):
        # The first bin is mostly exact zeros, which cost nothing.
        centre = min((place + 0.5) * width, absmax) if place else 0.0
        moments[place + 1, 0] = moments[place, 0] + counts[place]
        moments[place + 1, 1] = moments[place, 1] + counts[place] * centre
        moments[place + 1, 2] = moments[place, 2] + counts[place] * (centre * centre)


@inlined
def _edge(level: int, scale: float, width: float, bins: int) -> int:
    # Bin j rounds to this level while its centre, (j + 0.5) * width, is below (level + 0.5) * scale.
    return min(bins, int(np.ceil((level + 0.5) * scale / width - 0.5)))


@inlined
def _level_error(moments: Floats, value: float, start: int, end: int) -> float:
    squares = moments[end, 2] - moments[start, 2]
    products = moments[end, 1] - moments[start, 1]
    return squares - value * (2 * products - value * (moments[end, 0] - moments[start, 0]))


@inlined
def _find_best(moments: Floats, bins: int, numbers: Floats, first: int, last: int, step: int) -> int:
    # Returns the first of the candidates first, first - step ... >= last with the least error below numbers[2], which becomes
    # that error; `first` where none is.
    width, absmax, least = numbers[0], numbers[1], numbers[2]
    best = first
    slack = _ROUNDING * moments[bins, 2]
    for candidate in range(first, last - 1, -step):
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
    numbers[2] = least
    return best


def search_mse(counts_at, bins, numbers_at, moments_at):
    """Return k of the best candidate absmax * k / 2048; see `app.quant.mse`."""
    counts, numbers, moments = carray(counts_at, bins), carray(numbers_at, 3), carray(moments_at, (bins + 1, 3))
    _sum_moments(counts, bins, numbers[0], numbers[1], moments)
    numbers[2] = np.inf
    _find_best(moments, bins, numbers, 2048, 64, _COARSE_STEP * _PROBE_STEP)
    numbers[2] += _ROUNDING * moments[bins, 2]
    coarse = _find_best(moments, bins, numbers, 2048, 64, _COARSE_STEP)
    numbers[2] = np.inf
    return _find_best(moments, bins, numbers, min(coarse + _COARSE_STEP, 2048), coarse - _COARSE_STEP + 1, 1)


_FLOATS, _INTEGERS = types.CPointer(types.float64), types.CPointer(types.int64)
#: The numba signature of each kernel.
SIGNATURES = {
    "search_entropy": types.int64(_FLOATS, _FLOATS, _FLOATS, _INTEGERS, _INTEGERS),
    "search_mse": types.int64(_INTEGERS, types.int64, _FLOATS, _FLOATS),
}
