"""The fast KL search against the definition, evaluated term by term."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quant.entropy import entropy_amax, find_entropy_bins


def divergence(counts, bins):
    """KL(P || Q) in nats of keeping that many bins: the words of DESIGN 3.2, one after the other."""
    h = counts.astype(np.float64)
    h[0] = h[1]
    kept = h[:bins]
    if (kept > 0).sum() < 2:
        return np.inf
    p = kept.copy()
    p[-1] += h[bins:].sum()
    levels = np.arange(bins) * 128 // bins
    sums, occupied = np.bincount(levels, kept, 128), np.bincount(levels, kept > 0, 128)
    q = np.where(kept > 0, sums[levels] / np.maximum(occupied[levels], 1), 0.0)
    p, q = p / p.sum(), q / q.sum()
    if (q[p > 0] == 0).any():
        return np.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def check(counts):
    found = find_entropy_bins(counts)
    all_bins = [divergence(counts, bins) for bins in range(128, 2049)]
    least = min(all_bins)
    if np.isinf(least):
        assert found == 2048
        return
    assert all_bins[found - 128] <= least + 1e-12
    wider = [bins for bins in range(found + 1, 2049) if all_bins[bins - 128] < all_bins[found - 128] - 1e-11]
    assert not wider


@pytest.mark.parametrize("seed", range(6))
def test_dense_histograms_have_the_divergence_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    shape = [rng.normal, rng.laplace, rng.exponential][seed % 3]
    x = np.abs(shape(size=200_000))
    check(np.histogram(x, 2048, (0, x.max()))[0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2047), st.integers(1, 10**9)), min_size=1, max_size=40))
def test_few_values_have_the_divergence_of_the_definition(spikes):
    counts = np.zeros(2048, np.int64)
    for place, count in spikes:
        counts[place] += count
    check(counts)


def test_of_ties_the_widest_range_wins():
    counts = np.zeros(2048, np.int64)
    counts[[100, 500, 900]] = 7  # every kept range that holds all three has a divergence of 0
    assert find_entropy_bins(counts) == 2048


@pytest.mark.parametrize("place", [0, 1, 700, 2047])
def test_constant_tensors_keep_everything(place):
    counts = np.zeros(2048, np.int64)
    counts[place] = 1000
    assert entropy_amax(counts, 0.5) == 2048.5 * 0.5


def test_counts_are_not_changed():
    counts = np.arange(2048)
    find_entropy_bins(counts)
    assert (counts == np.arange(2048)).all()
