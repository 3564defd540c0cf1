"""The counting kernels of the GPU, compiled for the CPU, against the definition of both histograms and the CPU observer."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.errors import CalibrationNonfinite, CalibrationProblem
from app.observers.derived import Passes, derive_histograms
from app.observers.gpu_regions import ITEM_VALUES, Fetched, Placed, compare_images
from app.observers.gpu_streams import MergeableGpuStream, TensorrtGpuStream
from app.observers.gpu_trial import are_images_alike, find_places
from app.observers.plan import make_plan
from app.observers.regions import make_regions
from app.observers.watch import Watch
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
        self._watch, self._is_tried = Watch(), False
        self._plan = make_plan(onnx.load(path), tensors, grid)
        self._regions = make_regions(self._plan, grid)
        self._device, self._images_a_pass = device, images_a_pass

    def watched(self, watch: Watch):
        self._watch = watch
        return self

    def tried(self):
        self._is_tried = True
        return self

    def __call__(self, batches) -> bytes:
        single = np.repeat(batches[0][:1], self._images_a_pass, axis=0)
        shapes = (*(values.shape for values in self._compute(single)), single.shape)
        forward = HostForward(self._compute, shapes)
        if self._is_tried:
            forward.place(find_places(forward, self._plan.fetched))
        make = MergeableGpuStream if self._grid == "mergeable" else TensorrtGpuStream
        stream = make(forward, self._regions, self._device, self._watch)
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


@pytest.mark.parametrize("images_a_pass", [1, 2])
@pytest.mark.parametrize(
    "largest", [(1, 1, 64, 9000), (1, 1, 2000, 3000), (1, 1, 3000, 5000), (1e-40, 1e-40, 0.1, 6.0), (0, 0, 1, 0), (1, 1, 3, 2)]
)
def test_the_range_of_a_batch_is_that_of_all_its_passes(device, input_only, largest, images_a_pass):
    spread = np.linspace(0.1, 1, 5, dtype=np.float32).reshape(1, 1, 5)
    images = np.stack([np.float32(value) * spread for value in largest])
    batches = [images[:2], images[2:]]
    counted = Counted(device, input_only, ["x"], "tensorrt", images_a_pass)(batches)
    assert counted == expected({"x": images}, batches, "tensorrt")


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
    assert compare_images(device, forward.slots[0], 2).tolist() == [0]
    values[1, 2, 4] = np.nextafter(np.float32(1), np.float32(2))
    forward.fill(0, 0, values)
    assert compare_images(device, forward.slots[0], 2).tolist() == [1]
    assert compare_images(device, forward.slots[0], 1).tolist() == [0]


def test_a_tensor_without_batch_axis_counts_as_a_whole():
    fetched = Fetched((0, 0), ((7, 3), (4, 2)), 4)
    assert fetched.sizes(4).tolist() == [21, 8]
    assert fetched.sizes(1).tolist() == [21, 2]


@pytest.mark.parametrize(("grid", "expected_looks"), [("mergeable", [4, 8]), ("tensorrt", [2, 5, 10])])
def test_looks_show_the_first_images(device, tmp_path, grid, expected_looks):
    path, tensors = save_zoo_net(tmp_path), ["c1", "r1", "x"]
    images = np.random.default_rng(1).normal(size=(15, 3, 12, 12)).astype(np.float32)
    ends = [2, 3, 5, 7, 10, 11, 13, 15]
    batches = np.split(images, ends[:-1])
    looks: dict[int, list[int]] = {}
    watch = Watch(15, 0, lambda count, histograms: looks.update({count: [int(each.count) for each in histograms]}))
    whole = Counted(device, path, tensors, grid, 4)(batches)
    assert Counted(device, path, tensors, grid, 4).watched(watch)(batches) == whole
    assert list(looks) == expected_looks
    assert all(counts[0] == count * images[0].size for count, counts in looks.items())


class Mixing:
    """Passes of 4 images of two values, from which a tensor of these shapes is computed."""

    def __init__(self, compute, shape) -> None:
        self.forward = HostForward(lambda images: [compute(images)], (shape, (4, 2)))


@pytest.mark.parametrize(
    ("compute", "is_alike"),
    [
        (np.exp, True),
        (lambda images: images - images.mean(axis=0), False),
        (lambda images: images * np.arange(4, dtype=np.float32)[:, None], False),
        (lambda images: np.roll(images, 1, axis=0), False),
    ],
)
def test_images_that_depend_on_others_or_their_place_are_not_alike(device, compute, is_alike):
    assert are_images_alike(Mixing(compute, (4, 2)).forward, device) is is_alike


def test_images_are_found_along_their_axis():
    assert find_places(Mixing(np.transpose, (2, 4)).forward, ["t"]) == Placed((1, 0), ())
    assert find_places(Mixing(lambda images: images - images.mean(axis=0), (4, 2)).forward, ["m"]) == Placed((None, 0), ("m",))
    assert find_places(Mixing(np.zeros_like, (4, 2)).forward, ["z"]) == Placed((None, 0), ())


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_a_fixed_batch_along_another_axis_counts_no_filling(device, tmp_path, grid):
    nodes = [
        onnx.helper.make_node("Exp", ["x"], ["e"]),
        onnx.helper.make_node("Transpose", ["e"], ["t"], perm=[1, 2, 0, 3]),
        onnx.helper.make_node("Neg", ["t"], ["y"]),
    ]
    path = save_net(tmp_path, nodes, {}, "y", (3, 3, 12, 12))
    images = np.random.default_rng(1).normal(size=(7, 3, 12, 12)).astype(np.float32)
    batches = [images[:3], images[3:6], images[6:]]
    padded = np.concatenate((images, images[-1:], images[-1:]))
    values = {"y": run_all(path, padded, ["e"])["e"][:7] * np.float32(-1)}
    assert Counted(device, path, ["y"], grid, 3).tried()(batches) == expected(values, batches, grid)


def test_a_fixed_batch_that_is_mixed_takes_whole_passes_alone(device, tmp_path):
    nodes = [onnx.helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), onnx.helper.make_node("Sub", ["x", "m"], ["y"])]
    path = save_net(tmp_path, nodes, {}, "y", (3, 3, 12, 12))
    images = np.random.default_rng(1).normal(size=(7, 3, 12, 12)).astype(np.float32)
    counted = Counted(device, path, ["y"], "mergeable", 3).tried()
    assert counted([images[:6]])
    with pytest.raises(CalibrationProblem, match="a number of images that 3 divides"):
        counted([images])
