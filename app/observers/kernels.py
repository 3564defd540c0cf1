"""Counting kernels: one call counts all tensors of a part of a forward pass, block by block within the cache.

They are compiled by `app.native.build` and called through `app.observers.counting`, where what they take is documented.
A region is a run of float32 values in memory: one tensor, or the same tensor clamped once more. Every kernel gets the
values twice, as floats and as their bits; it updates its state in place and returns OK, or the first region that holds
NaN or infinity.

Magnitudes are compared as integers: for floats that are not negative the order of the bits is that of the values, and
bits from 0x7f800000 on are NaN or infinity. Of all bits of a tensor `extremes` int64[R, 3] keeps the largest as signed,
the largest as unsigned and the smallest as unsigned number, which are enough to tell minimum and maximum.
"""

import numpy as np
import numpy.typing as npt
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage] - public by its documentation
    njit,
    types,
)

from app.native.compress import CAN_PACK, LANES, pack_indices
from app.observers.layout import BLOCK, COLUMNS, INDICES, NEEDS_RANGE, OK, SIDE, TENSORRT_BINS, ZERO_BINS

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.int32]
Indices = npt.NDArray[np.uint16]
Extremes = npt.NDArray[np.int64]
Counts32 = npt.NDArray[np.uint32]

_LAST_SLOT = ZERO_BINS - 1
#: values, their bits, starts, sizes, clamps, number of regions, extremes
_REGIONS = types.Tuple(
    (
        types.CPointer(types.float32),
        types.CPointer(types.int32),
        types.CPointer(types.int64),
        types.CPointer(types.int64),
        types.CPointer(types.float32),
        types.int64,
        types.CPointer(types.int64),
    )
)
#: memory of BLOCK + 1 values, their bits, of INDICES indices
_SCRATCH = types.Tuple((types.CPointer(types.float32), types.CPointer(types.int32), types.CPointer(types.uint16)))

inlined = njit(nogil=True, error_model="numpy", inline="always")


@inlined
def _clamp(block: Floats, low: float, high: float, clamped: Floats) -> None:
    for j in range(block.size):
        clamped[j] = min(max(block[j], low), high)


@inlined
def _is_nonfinite(bits: Bits) -> np.bool_:
    worst = np.int32(0)
    for j in range(bits.size):
        worst = max(worst, np.int32(bits[j] & np.int32(0x7FFFFFFF)))
    return worst >= np.int32(0x7F800000)


@inlined
def _update_extremes(bits: Bits, extremes: Extremes) -> None:
    largest = np.int32(-(1 << 31))
    highest = np.uint32(0)
    for j in range(bits.size):
        largest = max(largest, bits[j])
        highest = max(highest, np.uint32(bits[j]))
    extremes[0] = max(extremes[0], np.int64(largest))
    extremes[1] = max(extremes[1], np.int64(highest))
    # The third one tells the minimum where nothing is negative, or the maximum where everything is.
    if extremes[0] < 0 or (extremes[1] < 1 << 31 and extremes[2] != 0):
        lowest = np.uint32(0xFFFFFFFF)
        for j in range(bits.size):
            lowest = min(lowest, np.uint32(bits[j]))
        extremes[2] = min(extremes[2], np.int64(lowest))


@inlined
def _grow(counts: Counts32, exponents: Bits, side: int, magnitude: int) -> None:
    # 2**(biased - 126) is the power of two above the magnitude; the bins of a side reach it.
    exponent = max((magnitude >> 23) - 126 - 13, -126)
    if exponent > exponents[side]:
        shift = min(exponent - exponents[side], 13)
        # In place, in both sub-histograms: bin k of the side goes to k >> shift <= k.
        for half in range(2):
            first = half * COLUMNS + side * SIDE
            for k in range(1, SIDE):
                moved = counts[first + k]
                counts[first + k] = 0
                counts[first + (k >> shift)] += moved
        exponents[side] = exponent


@inlined
def _inverse(exponent: int, clamped: Floats, clamped_bits: Bits) -> float:
    # 2**-exponent by its bits, in the element behind the block: a power could divide by zero, for all numba knows.
    clamped_bits[BLOCK] = np.int32((127 - exponent) << 23)
    return clamped[BLOCK]


@inlined
def _index(block: Floats, up: float, down: float, indices: Indices) -> None:
    # Exact zeros are dealt among ZERO_BINS of their own: half of a tensor may be zero, and a bin counts one at a time.
    # A counter of 32 bits is as wide as the values, so that the loop is vectorized without packing.
    for j in range(np.int32(block.size)):
        x = block[j]
        below = x < np.float32(0)
        bin_of_x = np.int32(x * (down if below else up)) + (np.int32(SIDE) if below else np.int32(0))
        slot = np.int32(2 * SIDE) + np.int32(j & np.int32(_LAST_SLOT))
        indices[j] = np.uint16(slot if x == np.float32(0) else bin_of_x)


@inlined
def _index_positive(block: Floats, up: float, indices: Indices) -> None:
    for j in range(np.int32(block.size)):
        x = block[j]
        slot = np.int32(2 * SIDE) + np.int32(j & np.int32(_LAST_SLOT))
        indices[j] = np.uint16(slot if x == np.float32(0) else np.int32(x * up))


@inlined
def _pack_positive(block: Floats, up: float, indices: Indices) -> int:
    # As `_index_positive`, but of what is not zero alone; returns how many values that are.
    filled = 0
    whole = block.size - block.size % LANES
    for j in range(0, whole, LANES):
        filled += pack_indices(block, j, up, indices, filled)
    for j in range(whole, block.size):
        if block[j] != np.float32(0):
            indices[filled] = np.uint16(np.int32(block[j] * up))
            filled += 1
    return filled


@inlined
def _scatter(indices: Indices, size: int, even: npt.NDArray[np.integer], odd: npt.NDArray[np.integer]) -> None:
    # Two sub-histograms, so that equal neighbours do not wait for one another's store.
    whole = size - size % 8
    for j in range(0, whole, 8):
        even[indices[j]] += np.uint32(1)
        odd[indices[j + 1]] += np.uint32(1)
        even[indices[j + 2]] += np.uint32(1)
        odd[indices[j + 3]] += np.uint32(1)
        even[indices[j + 4]] += np.uint32(1)
        odd[indices[j + 5]] += np.uint32(1)
        even[indices[j + 6]] += np.uint32(1)
        odd[indices[j + 7]] += np.uint32(1)
    for j in range(whole, size):
        even[indices[j]] += np.uint32(1)


def count_mergeable(regions, scratch, counts, exponents):
    """Count onto the grid of powers of two; see `app.observers.counting`."""
    floats, integers, starts, sizes, clamps, number, extremes = regions
    clamped, clamped_bits, indices = carray(scratch[0], BLOCK + 1), carray(scratch[1], BLOCK + 1), carray(scratch[2], INDICES)
    low_high, seen = carray(clamps, 2 * number), carray(extremes, 3 * number)
    for region in range(number):
        start, size = starts[region], sizes[region]
        values, bits = carray(floats, start + size), carray(integers, start + size)
        low, high, limits = low_high[2 * region], low_high[2 * region + 1], seen[3 * region : 3 * region + 3]
        own, both = (
            carray(counts, (region + 1) * 2 * COLUMNS)[region * 2 * COLUMNS :],
            carray(exponents, 2 * region + 2)[2 * region :],
        )
        for first in range(start, start + size, BLOCK):
            last = min(first + BLOCK, start + size)
            block, block_bits = values[first:last], bits[first:last]
            if low != -np.inf or high != np.inf:
                if _is_nonfinite(block_bits):
                    return region
                _clamp(block, low, high, clamped)
                block, block_bits = clamped[: last - first], clamped_bits[: last - first]
            _update_extremes(block_bits, limits)
            if limits[0] >= 0x7F800000 or limits[1] >= 0xFF800000:
                return region
            _grow(own, both, 0, max(limits[0], 0))
            _grow(own, both, 1, max(limits[1] - (1 << 31), 0))
            up, down = _inverse(both[0], clamped, clamped_bits), -_inverse(both[1], clamped, clamped_bits)
            indexed = last - first
            if limits[1] > 1 << 31:
                _index(block, up, down, indices)
            elif CAN_PACK:
                indexed = _pack_positive(block, up, indices)
                own[2 * SIDE] += np.uint32(last - first - indexed)
            else:
                _index_positive(block, up, indices)
            _scatter(indices, indexed, own[:COLUMNS], own[COLUMNS:])
    return OK


def measure_extremes(regions, scratch, counts, widths):
    """Update the extremes alone; see `app.observers.counting`."""
    floats, integers, starts, sizes, clamps, number, extremes = regions
    clamped, clamped_bits = carray(scratch[0], BLOCK), carray(scratch[1], BLOCK)
    low_high, seen = carray(clamps, 2 * number), carray(extremes, 3 * number)
    for region in range(number):
        start, size = starts[region], sizes[region]
        values, bits = carray(floats, start + size), carray(integers, start + size)
        for first in range(start, start + size, BLOCK):
            last = min(first + BLOCK, start + size)
            if _is_nonfinite(bits[first:last]):
                return region
            _clamp(values[first:last], low_high[2 * region], low_high[2 * region + 1], clamped)
            _update_extremes(clamped_bits[: last - first], seen[3 * region : 3 * region + 3])
    return OK


@inlined
def _fold_tensorrt(counts: Extremes) -> None:
    # The bin behind the last holds the values of exactly the range: half of the doubled one.
    for half in range(2):
        first = half * (TENSORRT_BINS + 1)
        for k in range(1, TENSORRT_BINS + 1):
            moved = counts[first + k]
            counts[first + k] = 0
            counts[first + (k >> 1)] += moved


@inlined
def _absmax(block: Floats) -> np.float32:
    absmax = np.float32(0)
    for j in range(block.size):
        absmax = max(absmax, abs(block[j]))
    return absmax


@inlined
def _index_tensorrt(block: Floats, per_width: float, indices: Indices) -> None:
    for j in range(block.size):
        indices[j] = np.uint16(np.int32(abs(block[j]) * per_width))


def count_tensorrt(regions, scratch, counts, widths):
    """Count onto TensorRT's grid, within one batch; see `app.observers.counting`."""
    floats, integers, starts, sizes, clamps, number, extremes = regions
    clamped, clamped_bits, indices = carray(scratch[0], BLOCK), carray(scratch[1], BLOCK), carray(scratch[2], INDICES)
    low_high, seen, bins = carray(clamps, 2 * number), carray(extremes, 3 * number), TENSORRT_BINS + 1
    for region in range(number):
        start, size = starts[region], sizes[region]
        values, bits = carray(floats, start + size), carray(integers, start + size)
        own = carray(counts, (region + 1) * 2 * bins)[region * 2 * bins :]
        for first in range(start, start + size, BLOCK):
            last = min(first + BLOCK, start + size)
            if _is_nonfinite(bits[first:last]):
                return region
            _clamp(values[first:last], low_high[2 * region], low_high[2 * region + 1], clamped)
            _update_extremes(clamped_bits[: last - first], seen[3 * region : 3 * region + 3])
            block = clamped[: last - first]
            absmax = _absmax(block)
            if absmax == 0:
                own[0] += last - first
                continue
            if widths[region] == 0:
                return NEEDS_RANGE
            while absmax > widths[region] * np.float32(TENSORRT_BINS):
                widths[region] *= np.float32(2)
                _fold_tensorrt(own)
            _index_tensorrt(block, np.float32(1) / widths[region], indices)
            _scatter(indices, last - first, own[:bins], own[bins:])
    return OK


_TENSORRT = (_REGIONS, _SCRATCH, types.CPointer(types.int64), types.CPointer(types.float32))
#: The numba signature of each kernel.
SIGNATURES = {
    "count_mergeable": types.int64(_REGIONS, _SCRATCH, types.CPointer(types.uint32), types.CPointer(types.int32)),
    "measure_extremes": types.int64(*_TENSORRT),
    "count_tensorrt": types.int64(*_TENSORRT),
}
