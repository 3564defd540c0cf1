"""What is kept of the activations: one collector a grid, fed by one or several threads."""

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from app.errors import CalibrationNonfinite
from app.observers.batch_axis import find_first_image
from app.observers.counting import Counter, Located, State
from app.observers.layout import COLUMNS, NEEDS_RANGE, NO_EXTREMES
from app.observers.parts import Parts
from app.quant.histogram import (
    MIN_EXPONENT,
    SEARCH_BINS,
    SIDE_BINS,
    MergeableHistogram,
    Side,
    TensorrtHistogram,
    empty_side,
    empty_tensorrt,
    fold_side,
    fold_tensorrt,
    is_range_anew,
    merge_mergeable,
    width_from_absmax,
)

#: Counts of a thread are 32 bits wide; they are moved to 64 before one can overflow.
_SPILL_ELEMENTS = 1 << 31


def bounds_from_extremes(extremes: npt.NDArray[np.int64] | Sequence[int]) -> tuple[float, float]:
    """Return (minimum, maximum) of the kernels' int64[3] extremes, (inf, -inf) where nothing was seen."""
    largest, highest, lowest = (int(bits) for bits in extremes)
    if (largest, highest, lowest) == NO_EXTREMES:
        return np.inf, -np.inf
    minimum = highest if highest >= 1 << 31 else lowest
    maximum = largest if largest >= 0 else lowest
    low, high = struct.unpack("<2f", struct.pack("<2I", minimum, maximum))
    return low + 0.0, high + 0.0  # -0.0 becomes 0.0


def has_negative(extremes: npt.NDArray[np.int64] | Sequence[int]) -> bool:
    """Whether the kernels' int64[3] extremes tell of a value below zero."""
    return int(extremes[1]) > 1 << 31  # which is -0.0


def absmax_from_extremes(extremes: npt.NDArray[np.int64]) -> float:
    """Return the largest magnitude of the kernels' int64[3] extremes."""
    minimum, maximum = bounds_from_extremes(extremes)
    return max(-minimum, maximum, 0.0)


def fresh_extremes(parts: Parts) -> npt.NDArray[np.int64]:
    """Return int64[R, 3] extremes of regions that have seen nothing."""
    return np.tile(np.array(NO_EXTREMES, np.int64), (len(parts), 1))


@dataclass(frozen=True)
class Seen:
    """Regions of one pass, from number `first` on; its images' place in the stream, and how many they are."""

    first: int
    regions: Located
    first_image: int
    images: int


def raise_nonfinite(parts: Parts, bad: int, seen: Seen) -> None:
    """Raise CalibrationNonfinite for the first bad value of a region."""
    place = seen.first + bad
    image = find_first_image(np.isfinite(seen.regions.arrays[bad]), parts.batch_axes[place], seen.images)
    raise CalibrationNonfinite(tensor=parts.names[place], image=seen.first_image + image)


@dataclass(frozen=True, eq=False)
class _Counted:
    """What one collector counted of a region: the kernels' extremes, exponents by sign, uint32[2, COLUMNS], exact zeros."""

    extremes: list[int]
    exponents: list[int]
    counts: npt.NDArray[np.uint32]
    zeros: int

    def side(self, sign: int) -> Side:
        """Return one sign, 0 the positive one, with counts that are the caller's."""
        even, odd = self.counts[:, sign * SIDE_BINS : (sign + 1) * SIDE_BINS]
        return Side(self.exponents[sign], (even + odd).astype(np.int64))  # no sum passes 32 bits, see _SPILL_ELEMENTS


class MergeableCollector:
    """Mergeable histograms of all regions; one of these a thread, merged in any order."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._counter = Counter()
        self._done: list[MergeableHistogram] | None = None
        self._elements = 0
        # Fresh memory costs nothing until it is counted into; many regions have no negative side.
        regions = len(parts)
        self._extremes = fresh_extremes(parts)
        self._counts = np.zeros((regions, 2, COLUMNS), np.uint32)
        self._exponents = np.full((regions, 2), MIN_EXPONENT, np.int32)
        self._state = State(self._extremes, self._counts, self._exponents)

    def clear(self) -> None:
        """Forget what was counted, and use the same memory again."""
        self._done = None
        self._clear_counts()

    def _clear_counts(self) -> None:
        self._elements = 0
        for region, extremes in enumerate(self._extremes):
            counts = self._counts[region]
            (counts if has_negative(extremes) else counts[:, :SIDE_BINS]).fill(0)
            counts[:, 2 * SIDE_BINS :] = 0
        self._extremes[:] = NO_EXTREMES
        self._exponents.fill(MIN_EXPONENT)

    def count(self, seen: Seen) -> None:
        """Count a part of a pass; raises CalibrationNonfinite."""
        bad = self._counter.count_mergeable(seen.regions, self._state, seen.first)
        if bad >= 0:
            raise_nonfinite(self._parts, bad, seen)
        self._elements += seen.regions.largest
        if self._elements > _SPILL_ELEMENTS:
            self._spill()

    def _spill(self) -> None:
        self._done = histograms_of([self])
        self._clear_counts()

    def by_region(self) -> list[_Counted]:
        """Return what is among the counts, by region."""
        zeros = self._counts[:, :, 2 * SIDE_BINS :].sum(axis=(1, 2), dtype=np.int64)
        rows = zip(self._extremes.tolist(), self._exponents.tolist(), self._counts, zeros.tolist(), strict=True)
        return [_Counted(*row) for row in rows]

    @property
    def done(self) -> list[list[MergeableHistogram]]:
        """The histograms by region of what is not among the counts any more, if there is any."""
        return [self._done] if self._done else []


def histograms_of(collectors: Sequence[MergeableCollector]) -> list[MergeableHistogram]:
    """Return the histograms by region of what all collectors counted."""
    counted = [_together(parts) for parts in zip(*(collector.by_region() for collector in collectors), strict=True)]
    done = (histograms for collector in collectors for histograms in collector.done)
    return reduce(lambda a, b: [merge_mergeable(*pair) for pair in zip(a, b, strict=True)], done, counted)


def _together(parts: Sequence[_Counted]) -> MergeableHistogram:
    largest, highest, lowest = zip(*(part.extremes for part in parts), strict=True)
    minimum, maximum = bounds_from_extremes((max(largest), max(highest), min(lowest)))
    positive = _sum_sides([part.side(0) for part in parts])
    positive.counts[0] += sum(part.zeros for part in parts)
    # What was never counted into is memory that was never touched.
    below = [part.side(1) for part in parts if has_negative(part.extremes)]
    negative = _sum_sides(below) if below else empty_side()
    count = int(positive.counts.sum()) + (int(negative.counts.sum()) if below else 0)
    return MergeableHistogram(count, minimum, maximum, positive, negative)


def _sum_sides(sides: Sequence[Side]) -> Side:
    widest = max(side.exponent for side in sides)
    total, *others = (fold_side(side, widest).counts for side in sides)
    for counts in others:
        total += counts
    return Side(widest, total)


class TensorrtPart:
    """Counts of a part of one batch on TensorRT's grid: one thread's share."""

    def __init__(self, extremes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], widths: npt.NDArray[np.float32]) -> None:
        self.extremes, self.counts, self.widths = extremes, counts, widths
        self.state = State(extremes, counts, widths)


class TensorrtCollector:
    """TensorRT's histograms of all regions, batch by batch; the parts of one batch may be counted by many threads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._done: list[TensorrtHistogram] = [empty_tensorrt() for _ in range(len(parts))]
        self._extremes = fresh_extremes(parts)
        self._widths = np.zeros(len(parts), np.float32)

    def measure(self, counter: Counter, seen: Seen) -> None:
        """Look at the extremes of a part of the batch alone, for the first ranges; raises CalibrationNonfinite."""
        part = self.start_part()
        bad = counter.measure_extremes(seen.regions, part.state, seen.first)
        if bad >= 0:
            raise_nonfinite(self._parts, bad, seen)
        self._add_extremes(part.extremes)

    def set_ranges(self) -> None:
        """Give every region without a range, or far beyond it, that of the values measured so far."""
        for region, done in enumerate(self._done):
            absmax, width = absmax_from_extremes(self._extremes[region]), float(self._widths[region])
            if is_range_anew(absmax, width):
                self._done[region] = fold_tensorrt(done, absmax, width)
            if not width or is_range_anew(absmax, width):
                self._widths[region] = width_from_absmax(absmax)

    def start_part(self) -> TensorrtPart:
        """Return empty counts for a thread's share of the next batch."""
        counts = np.zeros((len(self._parts), 2, SEARCH_BINS + 1), np.int64)
        return TensorrtPart(fresh_extremes(self._parts), counts, self._widths.copy())

    def count(self, counter: Counter, part: TensorrtPart, seen: Seen) -> bool:
        """Count a part of a pass; False where a region needs another range before. Raises CalibrationNonfinite."""
        bad = counter.count_tensorrt(seen.regions, part.state, seen.first)
        if bad >= 0:
            raise_nonfinite(self._parts, bad, seen)
        pairs = zip(part.widths.tolist(), self._widths.tolist(), strict=True)
        return bad != NEEDS_RANGE and not any(is_range_anew(own * SEARCH_BINS, width) for own, width in pairs)

    def _add_extremes(self, extremes: npt.NDArray[np.int64]) -> None:
        with self._lock:
            np.maximum(self._extremes[:, :2], extremes[:, :2], out=self._extremes[:, :2])
            np.minimum(self._extremes[:, 2], extremes[:, 2], out=self._extremes[:, 2])

    def end_batch(self, parts: list[TensorrtPart]) -> None:
        """Add all parts of one whole batch, which may double ranges."""
        for part in parts:
            self._add_extremes(part.extremes)
        for region, done in enumerate(self._done):
            width = max(float(part.widths[region]) for part in parts)
            counts = np.sum([_folded(part, region, width) for part in parts], axis=0)
            counts[SEARCH_BINS - 1] += counts[SEARCH_BINS]
            before = fold_tensorrt(done, width * SEARCH_BINS, done.width or width)
            total = before.counts + counts[:SEARCH_BINS]
            bounds = bounds_from_extremes(self._extremes[region])
            self._done[region] = TensorrtHistogram(int(total.sum()), *bounds, width, total)
            self._widths[region] = width

    def histograms(self) -> list[TensorrtHistogram]:
        """Return the histograms by region of all whole batches."""
        return self._done


def _folded(part: TensorrtPart, region: int, width: float) -> npt.NDArray[np.int64]:
    counts = part.counts[region].sum(axis=0)
    own = float(part.widths[region])
    while 0 < own < width:
        halves = np.zeros_like(counts)
        np.add.at(halves, np.arange(counts.size) >> 1, counts)
        counts, own = halves, own * 2
    return counts
