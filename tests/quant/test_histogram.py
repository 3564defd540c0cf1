"""Histograms: exact, mergeable, and TensorRT's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.quant.histogram import (
    MIN_EXPONENT,
    SEARCH_BINS,
    SIDE_BINS,
    Side,
    TensorrtHistogram,
    add_tensorrt_batch,
    add_zeros,
    empty_mergeable,
    empty_side,
    empty_tensorrt,
    fold_side,
    merge_mergeable,
    mergeable_from_values,
    relu_of_mergeable,
)
from app.quant.observation import Observation, observation_to_bytes

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
values = hnp.arrays(np.float32, st.integers(0, 60), elements=finite)


def bytes_of(histogram):
    grid = "tensorrt" if isinstance(histogram, TensorrtHistogram) else "mergeable"
    return observation_to_bytes(Observation(grid, 1, {"x": histogram}))


@given(st.lists(values, max_size=6), st.randoms())
def test_any_order_and_grouping_merges_to_the_same_bytes(parts, random):
    whole = mergeable_from_values(np.concatenate([np.zeros(0, np.float32), *parts]))
    random.shuffle(parts)
    histograms = [mergeable_from_values(part) for part in parts] or [empty_mergeable()]
    while len(histograms) > 1:
        a = histograms.pop(random.randrange(len(histograms)))
        histograms.append(merge_mergeable(histograms.pop(random.randrange(len(histograms))), a))
    assert bytes_of(histograms[0]) == bytes_of(whole)


@given(values)
def test_counts_equal_a_float64_reference(x):
    histogram = mergeable_from_values(x)
    assert histogram.count == x.size == histogram.positive.counts.sum() + histogram.negative.counts.sum()
    for side, magnitudes in ((histogram.positive, x[x >= 0]), (histogram.negative, -x[x < 0])):
        edges = np.arange(8193, dtype=np.float64) * 2.0**side.exponent
        assert (np.histogram(magnitudes.astype(np.float64), edges)[0] == side.counts).all()
        absmax = float(magnitudes.max(initial=0))
        assert side.exponent == MIN_EXPONENT or absmax >= 4096 * 2.0**side.exponent


@given(values)
def test_relu_of_a_histogram_is_the_histogram_of_relu(x):
    derived = relu_of_mergeable(mergeable_from_values(x)) if x.size else empty_mergeable()
    assert bytes_of(derived) == bytes_of(mergeable_from_values(np.maximum(x, 0)))


@given(values, st.integers(0, 5))
def test_padding_adds_zeros_on_both_grids(x, zeros):
    padded = np.concatenate((x, np.zeros(zeros, np.float32)))
    if x.size:
        assert bytes_of(add_zeros(mergeable_from_values(x), zeros)) == bytes_of(mergeable_from_values(padded))
        whole = add_tensorrt_batch(empty_tensorrt(), padded)
        assert bytes_of(add_zeros(add_tensorrt_batch(empty_tensorrt(), x), zeros)) == bytes_of(whole)


def test_search_bins_keep_every_count_and_end_at_absmax():
    x = np.random.default_rng(1).normal(size=50_000).astype(np.float32)
    histogram = mergeable_from_values(x)
    counts, width = histogram.search_bins()
    assert counts.size == SEARCH_BINS
    assert counts.sum() == x.size
    assert (counts >= 0).all()
    assert width * SEARCH_BINS == np.abs(x).max()
    exact = np.histogram(np.abs(x).astype(np.float64), SEARCH_BINS, (0, histogram.absmax))[0]
    assert np.abs(np.cumsum(counts) - np.cumsum(exact)).max() <= 40


def test_a_spike_at_absmax_lands_in_the_last_search_bin():
    for spike in (6.0, 0.3, 1e-30, 3e38):
        counts, _ = mergeable_from_values(np.full(100, spike, np.float32)).search_bins()
        assert counts[-1] == 100


def test_tensorrt_range_is_the_first_batch_and_doubles():
    first = add_tensorrt_batch(empty_tensorrt(), np.array([0.0, 1.0, -2.0], np.float32))
    assert first.width == 2.0 / 2048
    assert first.counts[[0, 1024, 2047]].tolist() == [1, 1, 1]
    second = add_tensorrt_batch(first, np.array([7.0], np.float32))
    assert second.width == 4 * first.width
    assert second.counts[[0, 256, 511, 1792]].tolist() == [1, 1, 1, 1]
    assert (second.minimum, second.maximum, second.count) == (-2.0, 7.0, 4)


def test_tensorrt_order_matters_and_dead_first_batches_wait():
    small, large = np.full(3, 1.0, np.float32), np.full(3, 3.0, np.float32)
    a = add_tensorrt_batch(add_tensorrt_batch(empty_tensorrt(), small), large)
    b = add_tensorrt_batch(add_tensorrt_batch(empty_tensorrt(), large), small)
    assert (a.width, b.width) == (4 / 2048, 3 / 2048)
    waited = add_tensorrt_batch(add_tensorrt_batch(empty_tensorrt(), np.zeros(5, np.float32)), large)
    assert waited.width == 3 / 2048
    assert waited.counts[0] == 5


@settings(max_examples=30)
@given(hnp.arrays(np.float32, 20, elements=st.floats(0, 2.0**-126, width=32)))
def test_denormals_do_no_harm(x):
    assert mergeable_from_values(x).count == 20
    assert add_tensorrt_batch(empty_tensorrt(), x).count == 20


@pytest.mark.parametrize("shift", range(15))
def test_folded_bins_hold_what_theirs_held(shift):
    counts = np.random.default_rng(shift).integers(0, 1 << 40, SIDE_BINS)
    folded = fold_side(Side(-20, counts), shift - 20)
    group = 1 << min(shift, 13)
    assert folded.exponent == shift - 20
    assert folded.counts.tolist() == [*counts.reshape(-1, group).sum(axis=1), *[0] * (SIDE_BINS - SIDE_BINS // group)]


def test_folding_nothing_gives_nothing():
    folded = fold_side(empty_side(), 5)
    assert folded.exponent == 5
    assert folded.counts.tolist() == [0] * SIDE_BINS
