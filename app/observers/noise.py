"""Images to try a model with, the same in every run."""

import math

import numpy as np
import numpy.typing as npt

#: Constants of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))


def make_noise(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Return float32 of that shape, uniform in [0, 1). numpy.random would load OpenSSL, for 6 MB."""
    places = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed << 40)
    mixed = places * _STEP
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * factor
    return ((mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)
