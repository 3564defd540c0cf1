"""The amax whose INT8 grid has the smallest mean squared error on a histogram."""

import numpy as np
import numpy.typing as npt

from app.quant.compiled import compiled

#: The candidates are absmax * k / 2048: every eighth k from 64 on, then every k around the best of those.
COARSE_STEP = 8


def mse_amax(counts: npt.NDArray[np.int64], width: float, absmax: float) -> float:
    """Return the best amax (float64) for int64[B] counts of magnitude with that bin width; of ties the largest.

    Every value stands at the centre of its bin, no further out than absmax, and is rounded to the nearest of the 128
    levels k * amax / 127. With the prefix sums of h, h x and h x^2 a level costs three subtractions.
    """
    centres = (np.arange(counts.size) + 0.5) * width
    centres[0] = 0.0  # the first bin is mostly exact zeros, which cost nothing
    centres = np.minimum(centres, absmax)
    moments = np.zeros((counts.size + 1, 3))
    np.cumsum(np.stack((counts, counts * centres, counts * centres**2), axis=1), axis=0, out=moments[1:])
    coarse = _best_candidate(moments, width, absmax, np.arange(2048, 63, -COARSE_STEP))
    around = np.arange(min(coarse + COARSE_STEP, 2048), coarse - COARSE_STEP, -1)
    return absmax * int(_best_candidate(moments, width, absmax, around)) / 2048


@compiled
def _best_candidate(moments: npt.NDArray[np.float64], width: float, absmax: float, candidates: npt.NDArray[np.int64]) -> int:
    bins = moments.shape[0] - 1
    least = np.inf
    best = candidates[0]
    for candidate in candidates:
        scale = absmax * candidate / (2048 * 127)
        error = 0.0
        start = 0
        for level in range(128):
            # Bin j rounds to this level while its centre, (j + 0.5) * width, is below (level + 0.5) * scale.
            edge = int(np.ceil((level + 0.5) * scale / width - 0.5))
            end = bins if level == 127 else min(bins, max(start, edge))
            value = level * scale
            squares = moments[end, 2] - moments[start, 2]
            products = moments[end, 1] - moments[start, 1]
            error += squares - value * (2 * products - value * (moments[end, 0] - moments[start, 0]))
            if error >= least:
                break
            start = end
        if error < least:
            least = error
            best = candidate
    return best
