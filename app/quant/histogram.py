"""Histograms of one activation: how often each magnitude occurred, by sign.

`MergeableHistogram` has bins of a power of two, so that it does not depend on the order or grouping of what it counted.
`TensorrtHistogram` has the bins of TensorRT's own calibrators, so that it does.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

#: Bins of one sign of a mergeable histogram. The largest magnitude always falls into the upper half of them.
SIDE_BINS = 8192
#: Bins of a TensorRT histogram, and of what the KL search gets from either grid.
SEARCH_BINS = 2048
#: TensorRT's grid doubles a range so often for one batch.
_MOST_DOUBLINGS = 11
#: Below this bin width float32 cannot hold the reciprocal; smaller magnitudes share the first bins.
MIN_EXPONENT = -126
MAX_EXPONENT = 128 - 13

Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Side:
    """The magnitudes of one sign: int64[8192] counts, bin k is [k, k + 1) * 2**exponent."""

    exponent: int
    counts: Counts


@dataclass(frozen=True, eq=False)
class MergeableHistogram:
    """Counts of one activation on the grid of powers of two; zeros count as positive.

    `minimum` and `maximum` are float32 values held as float. Merging is exact, commutative and associative, and an
    empty histogram is its neutral element.
    """

    count: int
    minimum: float
    maximum: float
    positive: Side
    negative: Side

    @property
    def absmax(self) -> float:
        """Largest magnitude seen, 0.0 of an empty histogram."""
        return max(-self.minimum, self.maximum) if self.count else 0.0

    def magnitude_bins(self) -> tuple[Counts, float]:
        """Return int64[8192] counts of |x| and their bin width."""
        if self.negative is _EMPTY_SIDE:
            return self.positive.counts, 2.0**self.positive.exponent
        exponent = max(self.positive.exponent, self.negative.exponent)
        counts = fold_side(self.positive, exponent).counts + fold_side(self.negative, exponent).counts
        return counts, 2.0**exponent

    def search_bins(self) -> tuple[Counts, float]:
        """Return int64[2048] counts over [0, absmax] and their bin width.

        The cumulative fine count is interpolated at the 2049 edges, rounded to whole counts and differenced: whole
        fine bins grouped to 2048 would make a comb, which moves the entropy amax by up to half.
        """
        fine, width = self.magnitude_bins()
        cumulative = np.concatenate(([0], np.cumsum(fine)))
        edges = np.arange(SEARCH_BINS + 1) * (self.absmax / SEARCH_BINS) / width
        at_edges = np.rint(np.interp(edges, np.arange(SIDE_BINS + 1), cumulative)).astype(np.int64)
        at_edges[-1] = self.count
        return np.diff(at_edges), self.absmax / SEARCH_BINS


@dataclass(frozen=True, eq=False)
class TensorrtHistogram:
    """Counts of |x| as TensorRT's calibrators keep them: int64[2048], bin width = range / 2048.

    The range is the absmax of the first batch that holds a value other than zero, doubled whenever a batch does not
    fit; where more than 11 doublings were needed, so that all values before fall into the first bin, it is the absmax of
    that batch. (TensorRT 10.6 doubles for 729 times the range and no more for 2187 times; where between, was not seen.) The
    width is float32, exactly; it is 0 as long as only zeros were seen.
    """

    count: int
    minimum: float
    maximum: float
    width: float
    counts: Counts

    @property
    def absmax(self) -> float:
        """Largest magnitude seen, 0.0 of an empty histogram."""
        return max(-self.minimum, self.maximum) if self.count else 0.0

    def magnitude_bins(self) -> tuple[Counts, float]:
        """Return int64[2048] counts of |x| and their bin width."""
        return self.counts, self.width

    def search_bins(self) -> tuple[Counts, float]:
        """Return int64[2048] counts and their bin width."""
        return self.counts, self.width


Histogram: TypeAlias = MergeableHistogram | TensorrtHistogram


def exponent_from_absmax(absmax: float) -> int:
    """Return the exponent of the finest bin width whose 8192 bins hold absmax: absmax < 8192 * 2**exponent."""
    return max(int(np.frexp(absmax)[1]) - 13, MIN_EXPONENT) if absmax else MIN_EXPONENT


def fold_side(side: Side, exponent: int) -> Side:
    """Return side with bins of 2**exponent, no finer than its own."""
    shift = min(exponent - side.exponent, 13)
    if shift == 0:
        return side
    if side is _EMPTY_SIDE:
        return Side(exponent, _NOTHING)
    kept = side.counts
    for _ in range(shift):
        kept = kept[::2] + kept[1::2]  # a sum along an axis of two takes twenty times as long
    counts = np.zeros(SIDE_BINS, np.int64)
    counts[: kept.size] = kept
    return Side(exponent, counts)


_NOTHING = np.zeros(SIDE_BINS, np.int64)
_NOTHING.flags.writeable = False
_EMPTY_SIDE = Side(MIN_EXPONENT, _NOTHING)


def empty_side() -> Side:
    """Return a side that counted nothing, always the same; its counts cannot be changed."""
    return _EMPTY_SIDE


def empty_mergeable() -> MergeableHistogram:
    """Return a mergeable histogram that counted nothing."""
    return MergeableHistogram(0, np.inf, -np.inf, empty_side(), empty_side())


def empty_tensorrt() -> TensorrtHistogram:
    """Return a TensorRT histogram that counted nothing."""
    return TensorrtHistogram(0, np.inf, -np.inf, 0.0, np.zeros(SEARCH_BINS, np.int64))


def merge_mergeable(a: MergeableHistogram, b: MergeableHistogram) -> MergeableHistogram:
    """Return the histogram of what a and b counted together, exactly."""
    return MergeableHistogram(
        a.count + b.count,
        min(a.minimum, b.minimum),
        max(a.maximum, b.maximum),
        _merge_sides(a.positive, b.positive),
        _merge_sides(a.negative, b.negative),
    )


def _merge_sides(a: Side, b: Side) -> Side:
    if a is _EMPTY_SIDE or b is _EMPTY_SIDE:
        return b if a is _EMPTY_SIDE else a
    exponent = max(a.exponent, b.exponent)
    return Side(exponent, fold_side(a, exponent).counts + fold_side(b, exponent).counts)


def mergeable_from_values(values: npt.NDArray[np.float32]) -> MergeableHistogram:
    """Return the histogram of finite float32 values of any shape: the definition that the kernels are held to."""
    flat = np.asarray(values, np.float32).ravel() + np.float32(0)  # -0.0 becomes 0.0
    if not flat.size:
        return empty_mergeable()
    sides = _side_from_magnitudes(flat[flat >= 0]), _side_from_magnitudes(-flat[flat < 0])
    return MergeableHistogram(flat.size, float(flat.min()), float(flat.max()), *sides)


def _side_from_magnitudes(magnitudes: npt.NDArray[np.float32]) -> Side:
    if not magnitudes.size:
        return empty_side()
    exponent = exponent_from_absmax(float(magnitudes.max()))
    indices = np.ldexp(magnitudes.astype(np.float64), -exponent).astype(np.int64)
    return Side(exponent, np.bincount(indices, minlength=SIDE_BINS))


def relu_of_mergeable(source: MergeableHistogram) -> MergeableHistogram:
    """Return the histogram of max(x, 0), exactly: everything negative becomes a zero."""
    counts = source.positive.counts.copy()
    counts[0] += source.negative.counts.sum()
    bounds = max(source.minimum, 0.0), max(source.maximum, 0.0)
    return MergeableHistogram(source.count, *bounds, Side(source.positive.exponent, counts), empty_side())


def add_zeros(histogram: Histogram, zeros: int) -> Histogram:
    """Return histogram with that many zeros more: what zero padding adds to a tensor."""
    if not zeros:
        return histogram
    bounds = {"minimum": min(histogram.minimum, 0.0), "maximum": max(histogram.maximum, 0.0)}
    counts = (histogram.counts if isinstance(histogram, TensorrtHistogram) else histogram.positive.counts).copy()
    counts[0] += zeros
    if isinstance(histogram, TensorrtHistogram):
        return replace(histogram, count=histogram.count + zeros, counts=counts, **bounds)
    side = replace(histogram.positive, counts=counts)
    return replace(histogram, count=histogram.count + zeros, positive=side, **bounds)


def add_tensorrt_batch(histogram: TensorrtHistogram, values: npt.NDArray[np.float32]) -> TensorrtHistogram:
    """Return histogram with one whole batch of finite float32 values more; batch order and size matter."""
    magnitudes = np.abs(np.asarray(values, np.float32)).ravel()
    if not magnitudes.size:
        return histogram
    absmax = float(magnitudes.max())
    width = histogram.width or width_from_absmax(absmax)
    folded = fold_tensorrt(histogram, absmax, width)
    # TensorRT multiplies by the reciprocal; pixels, whose values are often ends of bins, fall where that rounding puts them.
    per_width = np.float32(1) / np.float32(folded.width) if folded.width else np.float32(0)
    bins = (magnitudes * per_width).astype(np.int64)
    # A value of exactly the range would be bin 2048, which is not there.
    counts = np.bincount(np.minimum(bins, SEARCH_BINS - 1), minlength=SEARCH_BINS)
    return TensorrtHistogram(
        histogram.count + magnitudes.size,
        min(histogram.minimum, float(values.min()) + 0.0),
        max(histogram.maximum, float(values.max()) + 0.0),
        folded.width,
        folded.counts + counts,
    )


def width_from_absmax(absmax: float) -> float:
    """Return the bin width that the first batch with a value other than zero sets; 0.0 for an absmax of 0."""
    return max(absmax / SEARCH_BINS, float(np.finfo(np.float32).tiny)) if absmax else 0.0


def is_range_anew(absmax: float, width: float) -> bool:
    """Return whether a batch of that absmax is too far beyond the range of 2048 * width for doubling it."""
    return 0 < width * SEARCH_BINS * 2.0**_MOST_DOUBLINGS < absmax


def fold_tensorrt(histogram: TensorrtHistogram, absmax: float, width: float) -> TensorrtHistogram:
    """Return histogram with width doubled until absmax fits: absmax <= 2048 * width; or of a range set anew."""
    counts = histogram.counts
    if is_range_anew(absmax, width):
        first = np.zeros_like(counts)
        first[0] = counts.sum()
        return replace(histogram, width=width_from_absmax(absmax), counts=first)
    while absmax > width * SEARCH_BINS:
        counts = np.concatenate((counts.reshape(-1, 2).sum(axis=1), np.zeros(SEARCH_BINS // 2, np.int64)))
        width *= 2
    return replace(histogram, width=width, counts=counts)
