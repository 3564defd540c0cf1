"""The counting kernels against the definition of both histograms, on values that are awkward on purpose."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.native.kernel import jit_kernel
from app.observers import counting, kernels
from app.observers.layout import BLOCK
from app.observers.onnxruntime import ObserverSpec
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt, mergeable_from_values
from app.quant.observation import Grid, Observation, observation_to_bytes
from tests.observers.nets import save_net
from tests.observers.observing import observe

awkward = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -4.0, 1e-45, -1e-40, 3.4e38, -6.0, 0.1])
any_value = st.one_of(awkward, st.floats(width=32, allow_nan=False, allow_infinity=False))
stream = st.lists(hnp.arrays(np.float32, (2, 1, 1, 5), elements=any_value.map(np.float32)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def input_only(tmp_path_factory):
    return save_net(tmp_path_factory.mktemp("net"), [], {}, "x", ("N", 1, 1, 5))


def observed(path, batches, grid: Grid):
    return observation_to_bytes(observe(path, ["x"], batches, ObserverSpec(grid, 2), lambda _: None))


@settings(max_examples=150, deadline=None)
@given(stream)
def test_mergeable_counts_are_those_of_the_definition(input_only, batches):
    expected = Observation("mergeable", 2 * len(batches), {"x": mergeable_from_values(np.concatenate(batches))})
    assert observed(input_only, batches, "mergeable") == observation_to_bytes(expected)


@settings(max_examples=150, deadline=None)
@given(stream)
def test_tensorrt_counts_are_those_of_the_definition(input_only, batches):
    histogram = empty_tensorrt()
    for batch in batches:
        histogram = add_tensorrt_batch(histogram, batch)
    expected = Observation("tensorrt", 2 * len(batches), {"x": histogram})
    assert observed(input_only, batches, "tensorrt") == observation_to_bytes(expected)


@pytest.mark.parametrize("make", [np.abs, np.negative, lambda x: -np.abs(x), lambda x: np.maximum(x, 0)])
def test_tensors_longer_than_a_block(tmp_path, make):
    values = make(np.random.default_rng(0).normal(size=(3, 1, 100, 201)).astype(np.float32))
    values[2] *= np.float32(37)
    path = save_net(tmp_path, [], {}, "x", ("N", 1, 100, 201))
    expected = Observation("mergeable", 3, {"x": mergeable_from_values(values)})
    assert observed(path, [values], "mergeable") == observation_to_bytes(expected)


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "plain"])
def compiled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Count by the kernel as it is compiled for CPUs with AVX-512, or for others."""
    if request.param and not kernels.CAN_PACK:
        pytest.skip("this CPU has no AVX-512")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CAN_PACK", request.param)
        kernel = jit_kernel(kernels.__name__, "count_mergeable", 12)
        patch.setattr(counting, "load", lambda _name: kernel)
        yield


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("size", [1, 16, 17, BLOCK + 1, 2 * BLOCK + 37])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("special", [(), (-0.0, 1e-45, 1e-40), (3.4e38, 6.0, 6.0), (-1e-3,)])
def test_zeros_are_counted_however_the_kernel_is_compiled(tmp_path, size, zeros, special):
    random = np.random.default_rng(size)
    values = np.abs(random.normal(size=(2, 1, 1, size))).astype(np.float32)
    values[random.random(values.shape) < zeros] = 0
    values.flat[random.integers(0, values.size, len(special))] = special
    path = save_net(tmp_path, [], {}, "x", ("N", 1, 1, size))
    expected = Observation("mergeable", 2, {"x": mergeable_from_values(values)})
    assert observed(path, [values], "mergeable") == observation_to_bytes(expected)
