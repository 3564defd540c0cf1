"""The GPU observer on a real GPU: the same histograms as the CPU observer, and TensorRT's own bins."""

from typing import Any

import numpy as np
import onnx
import pytest

from app.errors import CalibrationNonfinite, CalibrationProblem
from app.observers.observing import observe_all
from app.observers.onnxruntime import ObserverSpec
from app.observers.tensorrt import GpuObserver, GpuObserverSpec
from app.observers.until import observe_until
from app.quant.graph import find_activations
from app.quant.histogram import mergeable_from_values
from app.quant.inner import find_observable_inner
from app.quant.observation import Observation, merge_observations, observation_to_bytes
from app.quant.table import scales_from_table, table_from_observation
from tests.observers.arrays import KINDS
from tests.observers.nets import DIGITS_MODEL, ZOO, read_digits, save_mixing_net, save_net, save_zoo_net
from tests.observers.observing import observe
from tests.observers.oracles import ORACLES
from tests.observers.test_arrays import BY_POWERS, COUNT, check_array, read_array, save_array_net
from tests.observers.test_oracle import read_oracle
from tests.observers.test_oracles import Case, check_entropy, check_minmax

TENSORS = list(read_oracle("mnist-entropy2.cache"))


def observe_on_gpu(path, tensors, batches, grid: Any = "mergeable") -> Observation:
    return observe_all(GpuObserver(path, tensors, GpuObserverSpec(grid), print), batches, lambda _: None)


def split(images, size):
    return [images[start : start + size] for start in range(0, len(images), size)]


def draw_images(count, shape=(3, 12, 12)):
    return np.random.default_rng(3).normal(size=(count, *shape)).astype(np.float32)


def test_the_digits_have_tensorrts_own_scales():
    observation = observe_on_gpu(DIGITS_MODEL, TENSORS, split(read_digits(), 50), "tensorrt")
    for method, cache in (("entropy", "mnist-entropy2.cache"), ("minmax", "mnist-minmax.cache")):
        scales, expected = scales_from_table(table_from_observation(observation, method)), read_oracle(cache)
        assert len(expected) == 17
        for tensor, scale in expected.items():
            assert scales[tensor] == pytest.approx(scale, rel=2e-6), tensor


def test_arrays_have_tensorrts_own_thresholds(tmp_path):
    arrays = [read_array(number) for number in range(0, COUNT, 7) if list(KINDS)[number % len(KINDS)] not in BY_POWERS]
    for size in {array.batches[0].size for array in arrays}:
        with GpuObserver(save_array_net(tmp_path, size), ["x", "y"], GpuObserverSpec("tensorrt"), print) as observer:
            observer.open((1, 1, 1, size))
            for array in (array for array in arrays if array.batches[0].size == size):
                observer.restart()
                for batch in array.batches:
                    observer.add(batch)
                check_array(array, observer.observation())


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_published_and_thin_nets_have_tensorrts_own_scales(tmp_path, oracle):
    path = oracle.save(tmp_path)
    model = onnx.load(path)
    tensors = find_activations(model)
    tensors += find_observable_inner(model, set(tensors))
    case = Case(oracle, tensors, observe_on_gpu(path, tensors, oracle.batches(), "tensorrt"))
    check_entropy(case)
    check_minmax(case)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_counts_differ_from_the_cpus_by_rounding_alone(tmp_path, grid):
    path, images = save_zoo_net(tmp_path), draw_images(75)
    ours = observe_on_gpu(path, ZOO, split(images, 20), grid)
    theirs = observe(path, ZOO, split(images, 20), ObserverSpec(grid, 2), lambda _: None)
    assert ours.images == theirs.images
    for name in ZOO:
        mine, other = ours.histograms[name], theirs.histograms[name]
        assert mine.count == other.count, name
        assert mine.absmax == pytest.approx(other.absmax, rel=1e-5), name
        moved = np.abs(np.cumsum(mine.search_bins()[0]) - np.cumsum(other.search_bins()[0])).max()
        assert moved <= max(3, mine.count // 200), name  # a value on the edge of a bin may fall to either side


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_what_needs_no_arithmetic_is_equal(tmp_path, grid):
    path, images = save_zoo_net(tmp_path), draw_images(70)
    images[:20] = 0
    ours = observe_on_gpu(path, ["x", "padded"], split(images, 20), grid)
    theirs = observe(path, ["x", "padded"], split(images, 20), ObserverSpec(grid, 2), lambda _: None)
    assert observation_to_bytes(ours) == observation_to_bytes(theirs)


def test_no_count_is_lost(tmp_path):
    path, images = save_net(tmp_path, [], {}, "x", ("N", 3, 300, 301)), draw_images(37, (3, 300, 301))
    images[:, 1] = np.maximum(images[:, 1], 0)
    ours = observe_on_gpu(path, ["x"], split(images, 9))
    expected = Observation("mergeable", 37, {"x": mergeable_from_values(images)})
    assert observation_to_bytes(ours) == observation_to_bytes(expected)


def test_parts_merge_to_the_bytes_of_one_pass():
    images = read_digits(101)
    merged = observe_on_gpu(DIGITS_MODEL, TENSORS, [images[:7]])
    for part in (images[7:64], images[64:]):
        merged = merge_observations(observe_on_gpu(DIGITS_MODEL, TENSORS, [part]), merged)
    assert observation_to_bytes(merged) == observation_to_bytes(observe_on_gpu(DIGITS_MODEL, TENSORS, split(images, 8)))


def test_more_images_may_follow_an_observation_or_all_begin_anew():
    images = read_digits(90)
    with GpuObserver(DIGITS_MODEL, TENSORS, GpuObserverSpec(), print) as observer:
        observer.add(images[:50])
        half = observation_to_bytes(observer.observation())
        observer.add(images[50:])
        whole = observation_to_bytes(observer.observation())
        observer.restart()
        observer.add(images[:50])
        assert observation_to_bytes(observer.observation()) == half
    # Two builds count alike: the first one's passes are the same tactics.
    assert half == observation_to_bytes(observe_on_gpu(DIGITS_MODEL, TENSORS, [images[:50]]))
    assert whole == observation_to_bytes(observe_on_gpu(DIGITS_MODEL, TENSORS, [images]))


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_nonfinite_names_tensor_and_image(tmp_path, grid):
    path = save_net(tmp_path, [onnx.helper.make_node("Exp", ["x"], ["e"]), onnx.helper.make_node("Neg", ["e"], ["y"])], {}, "y")
    images = draw_images(80)
    images[43, 0, 0, 0] = 1000
    with pytest.raises(CalibrationNonfinite) as caught:
        observe_on_gpu(path, ["x", "e", "y"], split(images, 7), grid)
    assert caught.value.facts == {"tensor": "e", "image": 43}


def test_a_batch_that_is_fixed_inside_is_run_image_by_image(tmp_path):
    weights = {"shape": np.array([1, 432]), "w": draw_images(1, (432, 5))[0]}
    nodes = [onnx.helper.make_node("Reshape", ["x", "shape"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])]
    path, images = save_net(tmp_path, nodes, weights, "y"), draw_images(5)
    observation = observe_on_gpu(path, ["x", "y"], [images])
    assert observation.histograms["y"].count == 25
    assert observation.histograms["y"].absmax == pytest.approx(np.abs(images.reshape(5, 432) @ weights["w"]).max(), rel=1e-5)


def test_a_fixed_batch_is_filled_up(tmp_path):
    path, images = save_zoo_net(tmp_path, batch=4), draw_images(10)
    observation = observe_on_gpu(path, ["x", "r1"], split(images, 3))
    assert observation.images == 10
    assert observation.histograms["r1"].count == 10 * 32 * 12 * 12


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_a_fixed_batch_along_another_axis_counts_no_filling(tmp_path, grid):
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"]),
        onnx.helper.make_node("Transpose", ["r"], ["t"], perm=[1, 2, 0, 3]),
        onnx.helper.make_node("Neg", ["t"], ["y"]),
    ]
    path, images = save_net(tmp_path, nodes, {}, "y", (3, 3, 12, 12)), draw_images(7)
    ours = observe_on_gpu(path, ["y"], split(images, 3), grid)
    theirs = observe(path, ["y"], split(images, 3), ObserverSpec(grid, 2), lambda _: None)
    assert observation_to_bytes(ours) == observation_to_bytes(theirs)


def test_images_that_influence_each_other_are_run_one_by_one(tmp_path):
    nodes = [onnx.helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), onnx.helper.make_node("Sub", ["x", "m"], ["y"])]
    path, images = save_net(tmp_path, nodes, {}, "y"), draw_images(7)
    with GpuObserver(path, ["y"], GpuObserverSpec(), print) as observer:
        observer.add(images)
        assert (observer.images_a_pass, observer.mixed) == (1, ())
        assert observer.observation().histograms["y"].absmax == 0


def test_a_fixed_batch_that_is_mixed_takes_whole_passes_alone(tmp_path):
    nodes = [onnx.helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), onnx.helper.make_node("Sub", ["x", "m"], ["y"])]
    path, images = save_net(tmp_path, nodes, {}, "y", (3, 3, 12, 12)), draw_images(7)
    with GpuObserver(path, ["y"], GpuObserverSpec(), print) as observer:
        observer.add(images[:6])
        assert (observer.observation().images, observer.mixed) == (6, ("y",))
    with pytest.raises(CalibrationProblem, match="a number of images that 3 divides"):
        observe_on_gpu(path, ["y"], [images])


@pytest.mark.parametrize(("grid", "expected_looks"), [("mergeable", [32, 64]), ("tensorrt", [20, 40, 60])])
def test_looks_are_the_observations_of_the_first_images(tmp_path, grid, expected_looks):
    path, images = save_zoo_net(tmp_path), draw_images(100)
    looks: dict[int, bytes] = {}
    spec = GpuObserverSpec(grid, 100, watch=lambda found: looks.update({found.images: observation_to_bytes(found)}))
    whole = observe_all(GpuObserver(path, ZOO, spec, print), split(images, 20), lambda _: None)
    assert observation_to_bytes(whole) == observation_to_bytes(observe_on_gpu(path, ZOO, split(images, 20), grid))
    assert list(looks) == expected_looks
    for count, look in looks.items():
        assert look == observation_to_bytes(observe_on_gpu(path, ZOO, split(images[:count], 20), grid))


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(CalibrationProblem, match="does not run"):
        observe_on_gpu(save_zoo_net(tmp_path), ZOO, [draw_images(2, (4, 12, 12))])


def test_shapes_that_depend_on_the_values_are_left_to_the_cpu(tmp_path):
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"]),
        onnx.helper.make_node("NonZero", ["r"], ["where"]),
        onnx.helper.make_node("Cast", ["where"], ["y"], to=1),
    ]
    with pytest.raises(CalibrationProblem, match="observer to onnxruntime"):
        observe_on_gpu(save_net(tmp_path, nodes, {}, "y"), ["r", "y"], [draw_images(3)])


def test_an_early_stop_looks_between_passes_where_images_of_a_pass_depend_on_one_another(tmp_path):
    path = save_mixing_net(tmp_path, (32, 3, 12, 12))
    looks = []
    observer = GpuObserver(path, ["s", "y"], GpuObserverSpec(), print)
    observe_until(observer, split(draw_images(96), 16), lambda seen: bool(looks.append(seen.images)), lambda _: None)
    assert looks == [32, 64, 96]
