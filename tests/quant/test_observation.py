"""Observations: bytes that are read back exactly, or refused; merging that is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import CalibrationProblem
from app.quant.histogram import add_tensorrt_batch, empty_mergeable, empty_tensorrt, mergeable_from_values
from app.quant.observation import (
    Grid,
    Observation,
    merge_observations,
    observation_from_bytes,
    observation_to_bytes,
)


def sample(grid: Grid = "mergeable", seed=0):
    rng = np.random.default_rng(seed)
    make = mergeable_from_values if grid == "mergeable" else lambda x: add_tensorrt_batch(empty_tensorrt(), x)
    draws = {"/a/Conv": rng.normal(size=500), "naïve:x": np.abs(rng.normal(size=30)), "zero": np.zeros(9)}
    histograms = {name: make(values.astype(np.float32)) for name, values in draws.items()}
    empty = empty_mergeable() if grid == "mergeable" else empty_tensorrt()
    return Observation(grid, 7, {**histograms, "none": empty})


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_bytes_round_trip(grid):
    observation = sample(grid)
    content = observation_to_bytes(observation)
    again = observation_from_bytes(content)
    assert observation_to_bytes(again) == content
    assert (again.grid, again.images, set(again.histograms)) == (grid, 7, set(observation.histograms))
    for name, histogram in observation.histograms.items():
        assert (again.histograms[name].search_bins()[0] == histogram.search_bins()[0]).all()


def test_bytes_do_not_depend_on_the_order_of_names():
    observation = sample()
    reversed_names = dict(reversed(list(observation.histograms.items())))
    assert observation_to_bytes(Observation("mergeable", 7, reversed_names)) == observation_to_bytes(observation)


def test_merging_commutes_and_counts_images():
    a, b = sample(seed=1), sample(seed=2)
    merged = merge_observations(a, b)
    assert merged.images == 14
    assert observation_to_bytes(merged) == observation_to_bytes(merge_observations(b, a))


def test_the_tensorrt_grid_and_other_tensors_are_not_merged():
    with pytest.raises(CalibrationProblem, match="mergeable"):
        merge_observations(sample("tensorrt"), sample("tensorrt"))
    with pytest.raises(CalibrationProblem, match="different tensors"):
        merge_observations(sample(), Observation("mergeable", 1, {}))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_consistent(data):
    content = bytearray(observation_to_bytes(sample(data.draw(st.sampled_from(["mergeable", "tensorrt"])))))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content) - 1, 700)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut]), bytes(content) + b"x"):
        try:
            observation = observation_from_bytes(damaged)
        except CalibrationProblem:
            continue
        for histogram in observation.histograms.values():
            assert histogram.magnitude_bins()[0].sum() == histogram.count
