"""The methods on tensors of every kind: an amax is always finite and above zero."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.errors import CalibrationProblem, UnsupportedOption
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt, mergeable_from_values
from app.quant.thresholds import compute_amax, is_dead, parse_method

METHODS = ("entropy", "minmax", "percentile", "mse")


def both(values):
    values = np.asarray(values, np.float32)
    return mergeable_from_values(values), add_tensorrt_batch(empty_tensorrt(), values)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_every_live_tensor_has_a_usable_amax(values):
    for histogram in both(values):
        if is_dead(histogram):
            with pytest.raises(CalibrationProblem):
                compute_amax(histogram, "minmax")
            continue
        for method in METHODS:
            amax = compute_amax(histogram, method)
            assert 0 < amax <= histogram.absmax * 2.001
            assert np.isfinite(amax)
            assert amax / 127 >= np.finfo(np.float32).tiny / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [6.0, -0.25, 1e-20, 3e30])
def test_a_constant_keeps_its_magnitude(method, constant):
    for histogram in both(np.full(1000, constant)):
        assert compute_amax(histogram, method) == pytest.approx(abs(constant), rel=1e-3)


def test_all_zero_is_dead_and_one_value_is_not():
    assert all(is_dead(histogram) for histogram in both(np.zeros(10)))
    assert not any(is_dead(histogram) for histogram in both([0, 0, 1e-3]))


def test_minmax_is_exact():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for histogram in both(values):
        assert compute_amax(histogram, "minmax") == float(np.abs(values).max())


@pytest.mark.parametrize("percentile", [50, 90, 99, 99.9, 99.99])
def test_percentile_agrees_with_numpy(percentile):
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    expected = float(np.percentile(np.abs(values), percentile))
    for histogram in both(values):
        bin_width = histogram.magnitude_bins()[1]
        assert compute_amax(histogram, "percentile", percentile) == pytest.approx(expected, abs=bin_width, rel=1e-3)


def test_percentile_of_mostly_zeros_is_absmax():
    for histogram in both([0.0] * 1_000_000 + [2.5]):
        assert compute_amax(histogram, "percentile", 99.99) == 2.5


def test_percentile_100_is_absmax():
    for histogram in both([1.0, 2.0, 3.7]):
        assert compute_amax(histogram, "percentile", 100) == pytest.approx(3.7)


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_mse_is_near_the_best_of_the_values_themselves(draw):
    values = np.abs(getattr(np.random.default_rng(0), draw)(size=100_000)).astype(np.float32)

    def error(amax):
        scale = amax / 127
        return float(np.mean((np.clip(np.rint(values / scale), 0, 127) * scale - values) ** 2))

    best = min(error(values.max() * k / 256) for k in range(8, 257))
    for histogram in both(values):
        assert error(compute_amax(histogram, "mse")) <= best * 1.02


def test_unknown_methods_are_refused():
    assert parse_method("mse") == "mse"
    with pytest.raises(UnsupportedOption):
        parse_method("native-entropy")
