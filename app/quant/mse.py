"""The amax whose INT8 grid has the smallest mean squared error on a histogram."""

import numpy as np
import numpy.typing as npt

from app.native.kernel import load_kernel


def mse_amax(counts: npt.NDArray[np.int64], width: float, absmax: float) -> float:
    """Return the best amax (float64) for int64[B] counts of magnitude with that bin width; of ties the largest.

    Every value stands at the centre of its bin, no further out than absmax, and is rounded to the nearest of the 128
    levels k * amax / 127. With the prefix sums of h, h x and h x^2 a level costs three subtractions. The candidates are
    absmax * k / 2048: every eighth k from 64 on, then every k around the best of those.
    """
    whole = np.ascontiguousarray(counts, np.int64)
    numbers, moments = np.array([width, absmax, np.inf]), np.empty((whole.size + 1, 3))
    search = load_kernel("app.quant.kernels", "search_mse", 4)
    return absmax * search(whole.ctypes.data, whole.size, numbers.ctypes.data, moments.ctypes.data) / 2048
