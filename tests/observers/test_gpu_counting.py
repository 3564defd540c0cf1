"""The counting kernels of the GPU, compiled for the CPU, against the definition of both histograms and the CPU observer."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.errors import CalibrationNonfinite
from app.observers.derived import Passes, derive_histograms
from app.observers.gpu_regions import ITEM_VALUES, Fetched, compare_images
from app.observers.gpu_streams import MergeableGpuStream, TensorrtGpuStream
from app.observers.plan import make_plan
from app.observers.regions import make_regions
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt, mergeable_from_values
from app.quant.observation import Observation, observation_to_bytes
from tests.observers.emulated.device import EmulatedDevice, HostForward, build_library
from tests.observers.nets import ZOO, run_all, run_zoo, save_net, save_zoo_net

awkward = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -4.0, 1e-45, -1e-40, 3.4e38, -6.0, 0.1])
any_value = st.one_of(awkward, st.floats(width=32, allow_nan=False, allow_infinity=False))
stream = st.lists(hnp.arrays(np.float32, (3, 1, 1, 5), elements=any_value.map(np.float32)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    return EmulatedDevice(build_library(tmp_path_factory.mktemp("kernels")))


@pytest.fixture(scope="module")
def input_only(tmp_path_factory):
    return save_net(tmp_path_factory.mktemp("net"), [], {}, "x", ("N", 1, 1, 5))


class Counted:
    """The observation that the GPU's streams make of a model whose tensors onnxruntime computes."""

    def __init__(self, device, path, tensors, grid, images_a_pass: int) -> None:
        self._path, self._grid = path, grid
        self._plan = make_plan(onnx.load(path), tensors, grid)
        self._regions = make_regions(self._plan, grid)
        self._device, self._images_a_pass = device, images_a_pass

    def __call__(self, batches) -> bytes:
        single = np.repeat(batches[0][:1], self._images_a_pass, axis=0)
        shapes = (*(values.shape for values in self._compute(single)), single.shape)
        forward = HostForward(self._compute, shapes)
        make = MergeableGpuStream if self._grid == "mergeable" else TensorrtGpuStream
        stream = make(forward, self._regions, self._device)
        for batch in batches:
            stream.add(batch)
        named = dict(zip((*self._plan.fetched, self._plan.input), shapes, strict=True))
        counted = stream.finish()
        passes = Passes(stream.images, self._images_a_pass, named)
        histograms = derive_histograms(self._plan, self._regions, counted, passes)
        return observation_to_bytes(Observation(self._grid, stream.images, histograms))

    def _compute(self, images):
        values = run_all(self._path, images, list(self._plan.fetched)) if self._plan.fetched else {}
        return [values[name] for name in self._plan.fetched]


def expected(values, batches, grid) -> bytes:
    """Return the observation that the definitions make of {tensor: values of all images} in these batches."""
    images = sum(len(batch) for batch in batches)
    if grid == "mergeable":
        histograms = {name: mergeable_from_values(array) for name, array in values.items()}
        return observation_to_bytes(Observation(grid, images, histograms))
    histograms = dict.fromkeys(values, empty_tensorrt())
    ends = np.cumsum([len(batch) for batch in batches])
    for name, array in values.items():
        for part in np.split(array, ends[:-1]):
            histograms[name] = add_tensorrt_batch(histograms[name], part)
    return observation_to_bytes(Observation(grid, images, histograms))


@settings(max_examples=60, deadline=None)
@given(stream, st.integers(1, 4))
def test_mergeable_counts_are_those_of_the_definition(device, input_only, batches, images_a_pass):
    counted = Counted(device, input_only, ["x"], "mergeable", images_a_pass)(batches)
    assert counted == expected({"x": np.concatenate(batches)}, batches, "mergeable")


@settings(max_examples=60, deadline=None)
@given(stream, st.integers(1, 4))
def test_tensorrt_counts_are_those_of_the_definition(device, input_only, batches, images_a_pass):
    counted = Counted(device, input_only, ["x"], "tensorrt", images_a_pass)(batches)
    assert counted == expected({"x": np.concatenate(batches)}, batches, "tensorrt")


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
@pytest.mark.parametrize("make", [np.abs, np.negative, lambda x: -np.abs(x), lambda x: np.maximum(x, 0), np.ones_like])
def test_tensors_longer_than_a_work_item(device, tmp_path, make, grid):
    height, width = 200, 2 * ITEM_VALUES // 200 + 3
    values = make(np.random.default_rng(0).normal(size=(3, 1, height, width)).astype(np.float32))
    values[2] *= np.float32(37)
    path = save_net(tmp_path, [], {}, "x", ("N", 1, height, width))
    batches = [values[:2], values[2:]]
    assert Counted(device, path, ["x"], grid, 2)(batches) == expected({"x": values}, batches, grid)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
@pytest.mark.parametrize("images_a_pass", [1, 3, 8])
def test_all_that_follows_from_other_tensors(device, tmp_path, grid, images_a_pass):
    path = save_zoo_net(tmp_path)
    images = np.random.default_rng(1).normal(size=(11, 3, 12, 12)).astype(np.float32)
    images[:2] = 0
    batches = [images[:2], images[2:7], images[7:11]]
    assert Counted(device, path, ZOO, grid, images_a_pass)(batches) == expected(run_zoo(path, images, grid), batches, grid)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_names_tensor_and_image(device, tmp_path, grid, value):
    images = np.zeros((9, 3, 12, 12), np.float32)
    images[6, 1, 3, 3] = value
    with pytest.raises(CalibrationNonfinite) as caught:
        Counted(device, save_zoo_net(tmp_path), ZOO, grid, 4)([images[:5], images[5:]])
    assert caught.value.facts == {"tensor": "x", "image": 6}


def test_images_that_differ_are_seen(device):
    values = np.ones((2, 3, 5), np.float32)
    forward = HostForward(lambda _: [], ((2, 3, 5),))
    forward.fill(0, 0, values)
    assert compare_images(device, forward.slots[0]).tolist() == [0]
    values[1, 2, 4] = np.nextafter(np.float32(1), np.float32(2))
    forward.fill(0, 0, values)
    assert compare_images(device, forward.slots[0]).tolist() == [1]


def test_a_tensor_without_batch_axis_counts_as_a_whole():
    fetched = Fetched((0, 0), ((7, 3), (4, 2)), 4)
    assert fetched.sizes(4).tolist() == [21, 8]
    assert fetched.sizes(1).tolist() == [21, 2]
