"""Counting kernels: one call counts all tensors of a forward pass, without the GIL, block by block within the cache.

A region is a run of float32 values in the arena: one tensor, or the same tensor clamped once more. Every kernel takes
`Regions` (arena float32[E], starts and sizes int64[R] in elements, clamps float32[R, 2]: low and high, infinite for
none), updates its state in place and returns -1, or the first region that holds NaN or infinity.

Magnitudes are compared as integers: for floats that are not negative the order of the bits is that of the values, and
bits from 0x7f800000 on are NaN or infinity. Of all bits of a tensor `extremes` int64[R, 3] keeps the largest as signed,
the largest as unsigned and the smallest as unsigned number, which are enough to tell minimum and maximum.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.quant.compiled import compiled

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

BLOCK = 8192
ZERO_BINS = 8
COLUMNS = 2 * 8192 + ZERO_BINS
#: What a kernel returns when a tensor that was all zeros so far needs a range first.
NEEDS_RANGE = -2
#: `extremes` of a tensor that has seen nothing.
NO_EXTREMES = (-(1 << 31), 0, (1 << 32) - 1)


class Regions(NamedTuple):
    """What one call counts: region r is arena[starts[r] : starts[r] + sizes[r]], clamped to clamps[r]."""

    arena: Floats
    starts: Indices
    sizes: Indices
    clamps: Floats


@compiled
def _load(block: Floats, low: float, high: float, clamped: Floats) -> Floats:
    if low == -np.inf and high == np.inf:
        return block
    for j in range(block.size):
        clamped[j] = min(max(block[j], low), high)
    return clamped[: block.size]


@compiled
def _is_nonfinite(block: Floats) -> np.bool_:
    worst = np.uint32(0)
    bits = block.view(np.uint32)
    for j in range(bits.size):
        magnitude = np.uint32(bits[j] & np.uint32(0x7FFFFFFF))
        worst = max(worst, magnitude)
    return worst >= np.uint32(0x7F800000)


@compiled
def _update_extremes(block: Floats, extremes: Indices) -> None:
    signed = block.view(np.int32)
    unsigned = block.view(np.uint32)
    largest = np.int32(-(1 << 31))
    highest = np.uint32(0)
    for j in range(block.size):
        largest = max(largest, signed[j])
        highest = max(highest, unsigned[j])
    extremes[0] = max(extremes[0], np.int64(largest))
    extremes[1] = max(extremes[1], np.int64(highest))
    # The third one tells the minimum where nothing is negative, or the maximum where everything is.
    if extremes[0] >= 0 and (extremes[1] >= 1 << 31 or extremes[2] == 0):
        return
    lowest = np.uint32(0xFFFFFFFF)
    for j in range(block.size):
        lowest = min(lowest, unsigned[j])
    extremes[2] = min(extremes[2], np.int64(lowest))


@compiled
def measure_extremes(regions: Regions, extremes: Indices) -> int:
    """Update the extremes alone."""
    arena, starts, sizes, clamps = regions
    clamped = np.empty(BLOCK, np.float32)
    for region in range(starts.size):
        for start in range(starts[region], starts[region] + sizes[region], BLOCK):
            block = arena[start : min(start + BLOCK, starts[region] + sizes[region])]
            if _is_nonfinite(block):
                return region
            _update_extremes(_load(block, clamps[region, 0], clamps[region, 1], clamped), extremes[region])
    return -1


@compiled
def _fold_side(counts: npt.NDArray[np.uint32], first: int, shift: int) -> None:
    # In place, in both sub-histograms: bin k of the side goes to k >> shift <= k.
    for half in range(2):
        for k in range(1, 8192):
            moved = counts[half, first + k]
            counts[half, first + k] = 0
            counts[half, first + (k >> shift)] += moved


@compiled
def _grow(counts: npt.NDArray[np.uint32], exponents: npt.NDArray[np.int32], side: int, magnitude: int) -> None:
    # 2**(biased - 126) is the power of two above the magnitude; 8192 bins reach it.
    exponent = max((magnitude >> 23) - 126 - 13, -126)
    if exponent > exponents[side]:
        _fold_side(counts, side * 8192, min(exponent - exponents[side], 13))
        exponents[side] = exponent


@compiled
def _index_positive(block: Floats, scale: float, zeros: npt.NDArray[np.int32], indices: npt.NDArray[np.uint16]) -> None:
    up = np.float32(scale)
    for j in range(block.size):
        x = block[j]
        indices[j] = np.uint16(zeros[j] if x == np.float32(0) else np.int32(x * up))


@compiled
def _index_signed(
    block: Floats, scales: tuple[float, float], zeros: npt.NDArray[np.int32], indices: npt.NDArray[np.uint16]
) -> None:
    up = np.float32(scales[0])
    down = np.float32(-scales[1])
    for j in range(block.size):
        x = block[j]
        below = x < np.float32(0)
        magnitude = np.int32(x * (down if below else up)) + (np.int32(8192) if below else np.int32(0))
        indices[j] = np.uint16(zeros[j] if x == np.float32(0) else magnitude)


@compiled
def _scatter(indices: npt.NDArray[np.uint16], size: int, counts: npt.NDArray[np.integer]) -> None:
    # Two sub-histograms, so that equal neighbours do not wait for one another's store.
    even = counts[0]
    odd = counts[1]
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


@compiled
def count_mergeable(
    regions: Regions,
    extremes: Indices,
    counts: npt.NDArray[np.uint32],
    exponents: npt.NDArray[np.int32],
) -> int:
    """Count onto the grid of powers of two.

    `counts` is uint32[R, 2 sub-histograms, COLUMNS]: 8192 bins of each sign, then ZERO_BINS among which exact zeros are
    dealt, because half of a tensor may be zero and a bin counts one at a time. `exponents` is int32[R, 2 signs], bin
    width 2**exponent.
    """
    arena, starts, sizes, clamps = regions
    clamped = np.empty(BLOCK, np.float32)
    indices = np.empty(BLOCK, np.uint16)
    zeros = (16384 + np.arange(BLOCK) % ZERO_BINS).astype(np.int32)
    for region in range(starts.size):
        for start in range(starts[region], starts[region] + sizes[region], BLOCK):
            block = arena[start : min(start + BLOCK, starts[region] + sizes[region])]
            if clamps[region, 0] != -np.inf or clamps[region, 1] != np.inf:
                if _is_nonfinite(block):
                    return region
                block = _load(block, clamps[region, 0], clamps[region, 1], clamped)
            seen = extremes[region]
            _update_extremes(block, seen)
            if seen[0] >= 0x7F800000 or seen[1] >= 0xFF800000:
                return region
            _grow(counts[region], exponents[region], 0, max(seen[0], 0))
            _grow(counts[region], exponents[region], 1, max(seen[1] - (1 << 31), 0))
            scales = (2.0 ** -exponents[region, 0], 2.0 ** -exponents[region, 1])
            if seen[1] <= 1 << 31:
                _index_positive(block, scales[0], zeros, indices)
            else:
                _index_signed(block, scales, zeros, indices)
            _scatter(indices, block.size, counts[region])
    return -1


@compiled
def _fold_tensorrt(counts: Indices) -> None:
    # Bin 2048 holds the values of exactly the range: half of the doubled one.
    for half in range(2):
        for k in range(1, 2049):
            moved = counts[half, k]
            counts[half, k] = 0
            counts[half, k >> 1] += moved


@compiled
def count_tensorrt(
    regions: Regions,
    extremes: Indices,
    counts: Indices,
    widths: Floats,
) -> int:
    """Count onto TensorRT's grid, within one batch.

    `counts` is int64[R, 2 sub-histograms, 2049]: the last bin holds values of exactly the range until the batch ends,
    because a range that doubles later in the batch must take them as if it had been doubled before. `widths` is
    float32[R]; where it is still 0 and a value is not, NEEDS_RANGE is returned.
    """
    arena, starts, sizes, clamps = regions
    clamped = np.empty(BLOCK, np.float32)
    indices = np.empty(BLOCK, np.uint16)
    for region in range(starts.size):
        for start in range(starts[region], starts[region] + sizes[region], BLOCK):
            block = arena[start : min(start + BLOCK, starts[region] + sizes[region])]
            if _is_nonfinite(block):
                return region
            block = _load(block, clamps[region, 0], clamps[region, 1], clamped)
            _update_extremes(block, extremes[region])
            absmax = np.float32(0)
            for j in range(block.size):
                absmax = max(absmax, abs(block[j]))
            if absmax == 0:
                counts[region, 0, 0] += block.size
                continue
            if widths[region] == 0:
                return -2
            while absmax > widths[region] * np.float32(2048):
                widths[region] *= np.float32(2)
                _fold_tensorrt(counts[region])
            width = widths[region]
            for j in range(block.size):
                indices[j] = np.uint16(np.int32(abs(block[j]) / width))
            _scatter(indices, block.size, counts[region])
    return -1
