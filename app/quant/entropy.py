"""The KL search of TensorRT's IInt8EntropyCalibrator2, bin for bin.

Source: NVIDIA, 8-bit Inference with TensorRT (GTC 2017, S7310), with the details found by comparing with the caches of
TensorRT 10.6: the zero bin takes its neighbour's count, the range may end at any of the bins 128..2048, bins are dealt
to the 128 levels evenly, and of equal divergences the widest range wins. Of a tensor of a hundred values many ranges have
mathematically the same divergence; there it is the rounding of a plain sum in float64 that decides, so ties are summed up
once more as TensorRT does, see `app.quant.ties`.
"""

import numpy as np
import numpy.typing as npt

from app.native.kernel import load_kernel
from app.quant.histogram import SEARCH_BINS

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


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
    ties = _search(neutral, mass, entropy, np.concatenate(([0], np.cumsum(occupied, dtype=np.int64))))
    if len(ties) > 1:
        from app.quant.ties import first_of_least  # loads numba, for the few small tensors that need it

        return first_of_least(neutral, mass, ties)
    return int(ties[0]) if len(ties) else SEARCH_BINS


def _search(counts: Floats, mass: Floats, entropy: Floats, occupied: Whole) -> Whole:
    # The ranges of the least divergence, the widest first; none where no range has any.
    # counts: float64[2048] · mass, entropy: float64[2049], sums of h and of h log h of the bins before each one · occupied:
    # int64[2049], how many of those hold anything
    ties = np.empty(SEARCH_BINS, np.int64)
    arrays = (counts, mass, entropy, occupied, ties)
    found = load_kernel("app.quant.kernels", "search_entropy", len(arrays))(*[array.ctypes.data for array in arrays])
    return ties[:found]
