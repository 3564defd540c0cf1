"""Call the counting kernels on a part of a forward pass. They hold no GIL."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.native.kernel import Kernel, load_kernel
from app.observers.layout import BLOCK, INDICES, OK

MODULE = "app.observers.kernels"
_ARGUMENTS = 12


class Located:
    """What one call counts: of region r the first `sizes[r]` values of `arrays[r]`, clamped to `clamps[r]`.

    arrays: float32, contiguous · clamps: float32[R, 2], low and high, infinite for none. Addresses are read once, for a
    pass may take less time than reading them.
    """

    def __init__(
        self, arrays: Sequence[npt.NDArray[np.float32]], sizes: Sequence[int], clamps: npt.NDArray[np.float32]
    ) -> None:
        self.arrays = arrays
        self.sizes = np.array(sizes, np.int64)
        self._clamps = np.ascontiguousarray(clamps, np.float32)
        places = [array.ctypes.data for array in arrays]
        base = min(places, default=0)
        self._starts = np.array([(place - base) // 4 for place in places], np.int64)
        tables = (part.ctypes.data for part in (self._starts, self.sizes, self._clamps))
        self.addresses = (base, base, *tables, len(arrays))

    @property
    def largest(self) -> int:
        """How many values the largest region has."""
        return int(self.sizes.max(initial=0))


class State:
    """Arrays that kernels update, one row a region."""

    def __init__(self, *arrays: npt.NDArray[np.generic]) -> None:
        self._arrays = arrays
        self._rows = [(array.ctypes.data, array.strides[0]) for array in arrays]

    def at(self, first: int) -> list[int]:
        """Return the addresses of the rows of region `first`."""
        return [address + first * stride for address, stride in self._rows]


@dataclass(frozen=True, eq=False)
class Counter:
    """The kernels with one thread's working memory. `first` is the region of the state that the first of `regions` is."""

    _floats: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(BLOCK + 1, np.float32))
    _indices: npt.NDArray[np.uint16] = field(default_factory=lambda: np.empty(INDICES, np.uint16))

    def count_mergeable(self, regions: Located, state: State, first: int = 0) -> int:
        """Count onto the grid of powers of two; return OK or the first bad region, from `first` on.

        state: extremes int64[R, 3] · counts uint32[R, 2 sub-histograms, COLUMNS] · exponents int32[R, 2 signs], bin
        width 2**exponent.
        """
        return self._call("count_mergeable", regions, state.at(first))

    def measure_extremes(self, regions: Located, state: State, first: int = 0) -> int:
        """Update the extremes alone; return OK or the first bad region. state: as of count_tensorrt."""
        return self._call("measure_extremes", regions, state.at(first))

    def count_tensorrt(self, regions: Located, state: State, first: int = 0) -> int:
        """Count onto TensorRT's grid, within one batch; return OK, NEEDS_RANGE or the first bad region.

        state: extremes int64[R, 3] · counts int64[R, 2 sub-histograms, 2049]: the last bin holds values of exactly the
        range until the batch ends, because a range that doubles later in the batch must take them as if it had been
        doubled before · widths float32[R]; where it is still 0 and a value is not, NEEDS_RANGE is returned.
        """
        return self._call("count_tensorrt", regions, state.at(first))

    def _call(self, name: str, regions: Located, state: list[int]) -> int:
        if not regions.arrays:
            return OK
        extremes, *rest = state
        floats = self._floats.ctypes.data
        return load(name)(*regions.addresses, extremes, floats, floats, self._indices.ctypes.data, *rest)


def load(name: str) -> Kernel:
    """Return a kernel; its first call in a process reads its code, the first one on a machine compiles it."""
    return load_kernel(MODULE, name, _ARGUMENTS)
