"""Of ranges with the same divergence the one that TensorRT takes: the rounding of a plain sum in float64 decides.

A small tensor may have several hundred such ranges. What adds nothing to a sum, not even by rounding, is left out of it,
and a sum with the very terms of the one before is not computed again.
"""

import numpy as np
import numpy.typing as npt

from app.quant.compiled import compiled

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

#: Multiples of 1/16 below this add up exactly; a level has at most 16 bins.
_EXACT = 2.0**49


def first_of_least(counts: Floats, mass: Floats, ties: Whole) -> int:
    """Return the first of the ranges `ties` whose divergence, summed up plainly, is the least.

    counts: float64[2048] · mass: float64[2049], their prefix sums.
    """
    held = counts[counts > 0]
    ranks = np.concatenate(([0], np.cumsum(counts > 0)))
    steps = np.concatenate(([0, 0], np.cumsum(held[1:] != held[:-1])))
    return int(_first_of_least(held, mass, ranks, steps, ties))


@compiled
def _first_of_least(held: Floats, mass: Floats, ranks: Whole, steps: Whole, ties: Whole) -> int:
    # ranks: int64[2049], how many bins before each one are occupied; held are those. steps: int64[occupied + 1], how many
    # before each of them differ from the one before that.
    means = held.copy()
    best_bins, best = ties[0], np.inf
    earlier = np.full((1, 2), -1)
    for bins in ties:
        uneven = _find_uneven(ranks, steps, bins)
        outliers = mass[2048] - mass[bins]
        if outliers == 0.0:
            if np.array_equal(uneven, earlier):
                continue  # every occupied bin is kept, so every term is the same
            earlier = uneven
        divergence = _sum_up(held[: ranks[bins]], means, uneven, mass[2048], outliers)
        if divergence < best:
            best, best_bins = divergence, bins
    return best_bins


@compiled
def _find_uneven(ranks: Whole, steps: Whole, bins: int) -> Whole:
    # int64[U, 2]: first rank and the one behind the last of each level whose occupied bins differ. Where they do not, Q is P
    # but for what normalizes them.
    found = np.empty((128, 2), np.int64)
    number, start = 0, 0
    for level in range(1, 129):
        end = ranks[(level * bins + 127) // 128]
        if end > start + 1 and steps[end] > steps[start + 1]:
            found[number, 0], found[number, 1] = start, end
            number += 1
        start = end
    return found[:number]


@compiled
def _sum_up(held: Floats, means: Floats, uneven: Whole, total: float, outliers: float) -> float:
    # KL(P || Q) in nats, one occupied bin after the other, both distributions normalized first. `means` is Q before that;
    # it comes and goes as the counts themselves, which it is in even levels.
    is_exact = total < _EXACT
    for level in range(uneven.shape[0]):
        first, end = uneven[level]
        summed, inside = held[first:end].sum(), end - first
        means[first:end] = summed / inside
        is_exact &= inside & (inside - 1) == 0 or summed % inside == 0.0
    spread = total - outliers if is_exact else means[: held.size].sum()
    # P is Q where counts are alike: their terms are zeros.
    spans = uneven if outliers == 0.0 and spread == total else np.array([[0, held.size]])
    divergence, term, last_p, last_q = 0.0, 0.0, -1.0, -1.0
    for span in range(spans.shape[0]):
        for place in range(spans[span, 0], spans[span, 1]):
            p = (held[place] + (outliers if place == held.size - 1 else 0.0)) / total
            q = means[place] / spread
            if p != last_p or q != last_q:
                term, last_p, last_q = p * np.log(p / q), p, q
            divergence += term
    for level in range(uneven.shape[0]):
        first, end = uneven[level]
        means[first:end] = held[first:end]
    return divergence
