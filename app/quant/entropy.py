"""The KL search of TensorRT's IInt8EntropyCalibrator2, bin for bin.

Source: NVIDIA, 8-bit Inference with TensorRT (GTC 2017, S7310), with the details found by comparing with the caches of
TensorRT 10.6: the zero bin takes its neighbour's count, the range may end at any of the bins 128..2048, bins are dealt
to the 128 levels evenly, and of equal divergences the widest range wins. Of a tensor of a hundred values many ranges have
mathematically the same divergence; there it is the rounding of a plain sum in float64 that decides, so ties are summed up
once more as TensorRT does, see `app.quant.ties`.
"""

import numpy as np
import numpy.typing as npt

from app.quant.compiled import compiled
from app.quant.histogram import SEARCH_BINS
from app.quant.ties import first_of_least

#: Levels of the quantized distribution: the magnitudes of int8.
LEVELS = 128
#: Divergences nearer than this (in nats) are ties: prefix sums round differently from a plain sum.
TIE_NATS = 1e-13


def entropy_amax(counts: npt.NDArray[np.int64], width: float) -> float:
    """Return the amax (float64) of int64[2048] counts of magnitude with that bin width."""
    return (find_entropy_bins(counts) + 0.5) * width


def find_entropy_bins(counts: npt.NDArray[np.int64]) -> int:
    """Return how many of the 2048 bins the range keeps, 128..2048, so that the divergence is smallest.

    A distribution of fewer than two occupied bins has no divergence to go by: it keeps all of them.
    """
    neutral = np.ascontiguousarray(counts, dtype=np.float64)
    neutral = np.concatenate((neutral[1:2], neutral[1:]))
    occupied = neutral > 0
    logs = np.log(neutral, out=np.zeros(SEARCH_BINS), where=occupied)
    mass, entropy = (np.concatenate(([0.0], np.cumsum(terms))) for terms in (neutral, neutral * logs))
    ties = _search(neutral, mass, entropy, np.concatenate(([0], np.cumsum(occupied))))
    return int(ties[0] if len(ties) == 1 else first_of_least(neutral, mass, ties))


@compiled
def _search(
    counts: npt.NDArray[np.float64],
    mass: npt.NDArray[np.float64],
    entropy: npt.NDArray[np.float64],
    occupied: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    # Returns the ranges of the least divergence, the widest first; all 2048 bins where no range has any.
    # In units of total * KL(P || Q), with P = counts / total and Q spread over the occupied bins of each level:
    #   sum over levels of (sum h log h - s log(s / c)) + what the outliers in the last bin add + total log(S / total)
    # where s, c and S are the counts of a level, its occupied bins, and the counts of the whole range.
    # Every level's term is >= 0 (log-sum inequality), so a candidate is given up once it passes the best.
    total = mass[2048]
    slack = TIE_NATS * total
    ties = np.full(2048, 2048)
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
    return ties[: max(found, 1)]
