"""Ranges of the same divergence: the one that a plain sum in float64 prefers."""

import math

import numpy as np
import pytest

from app.quant.entropy import find_entropy_bins
from app.quant.kernels import TIE_NATS


def plain_sum(counts, bins):
    """KL(P || Q) in nats of keeping that many bins, summed up in the order of the bins as TensorRT does."""
    kept = [place for place in range(bins) if counts[place]]
    total, outliers = sum(counts), sum(counts[bins:])
    if len(kept) < 2 or (outliers and kept[-1] != bins - 1):
        return math.inf
    levels = {}
    for place in kept:
        levels.setdefault(place * 128 // bins, []).append(counts[place])
    means = [sum(level) / len(level) for level in levels.values() for _ in level]
    spread = 0.0
    for mean in means:
        spread += mean
    divergence = 0.0
    for place, mean in zip(kept, means, strict=True):
        p = (counts[place] + (outliers if place == bins - 1 else 0)) / total
        divergence += p * math.log(p / (mean / spread))
    return divergence


def find_tied(counts):
    """Return the ranges of the least divergence with their plain sums, the widest first."""
    neutral = [int(counts[1]), *counts[1:].tolist()]
    sums = {bins: plain_sum(neutral, bins) for bins in range(2048, 127, -1)}
    least = min(sums.values())
    return {bins: divergence for bins, divergence in sums.items() if divergence <= least + TIE_NATS}


def few_values(seed):
    """Return a tensor of a few hundred values at most, hardly two of them in a bin."""
    generator = np.random.default_rng(seed)
    counts = np.zeros(2048, np.int64)
    size = int(generator.integers(100, 400))
    places = generator.choice(int(generator.integers(size, 1500)), size, replace=False)
    counts[places] = 1
    counts[places[: generator.integers(1, 8)]] = 2
    return counts


def clusters(seed):
    """Return runs of two or three occupied bins, whose mean may not be exact, the upper bins empty."""
    generator = np.random.default_rng(seed)
    counts = np.zeros(2048, np.int64)
    places = np.sort(generator.choice(1000, generator.integers(3, 25), replace=False))
    for offset in range(generator.integers(1, 4)):
        counts[places + offset] = generator.integers(1, 3)
    return counts


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("make", [few_values, clusters])
def test_of_ties_the_least_plain_sum_wins(make, seed):
    counts = make(seed)
    tied = find_tied(counts)
    assert find_entropy_bins(counts) == min(tied, key=lambda bins: tied[bins])  # of equal sums the first, which is the widest


@pytest.mark.parametrize("seed", [17, 943])
def test_among_hundreds_of_ties_rounding_decides(seed):
    counts = few_values(seed)
    tied = find_tied(counts)
    assert len(tied) > 300
    assert find_entropy_bins(counts) == min(tied, key=lambda bins: tied[bins]) < max(tied)
