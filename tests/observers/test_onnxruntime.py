"""The CPU observer against values fetched one by one, on both grids, in any batching."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from app.errors import CalibrationNonfinite, CalibrationProblem, DatasetTooSmall
from app.observers.collectors import MergeableCollector
from app.observers.observing import observe_all
from app.observers.onnxruntime import Observer, ObserverSpec
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt, mergeable_from_values
from app.quant.observation import Grid, Observation, merge_observations, observation_to_bytes
from tests.observers.nets import DIGITS_MODEL, ZOO, read_digits, run_zoo, save_net, save_zoo_net
from tests.observers.observing import observe, prepare

DIGIT_TENSORS = ["input", "/0/Conv_output_0", "/2/Relu_output_0", "/6/d/d.2/Clip_output_0", "/9/Flatten_output_0", "output"]


def split(images, size):
    return [images[start : start + size] for start in range(0, len(images), size)]


def draw_images(count, shape: tuple[int, ...] = (3, 12, 12), seed=3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def observe_bytes(path, tensors, batches, grid: Grid = "mergeable", threads=2):
    spec = ObserverSpec(grid, threads)
    return observation_to_bytes(observe(path, tensors, batches, spec, lambda _: None))


def expected_bytes(values, batches, grid):
    histograms = {}
    for name, value in values.items():
        if grid == "mergeable":
            histograms[name] = mergeable_from_values(value)
            continue
        histogram, start = empty_tensorrt(), 0
        for batch in batches:
            histogram = add_tensorrt_batch(histogram, value[start : start + len(batch)])
            start += len(batch)
        histograms[name] = histogram
    return observation_to_bytes(Observation(grid, sum(map(len, batches)), histograms))


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
@pytest.mark.parametrize(("batch", "layout"), [("N", "NCHW"), ("N", "NHWC"), (1, "NCHW")])
def test_every_derived_tensor_equals_the_fetched_one(tmp_path, grid, batch, layout):
    path = save_zoo_net(tmp_path, batch, layout)
    images = draw_images(11, (12, 12, 3) if layout == "NHWC" else (3, 12, 12))
    tensors = [*ZOO, "t"] if layout == "NHWC" else ZOO
    batches = split(images, 4)
    values = run_zoo(path, images, grid)
    values |= {"t": images.transpose(0, 3, 1, 2)} if layout == "NHWC" else {}
    assert observe_bytes(path, tensors, batches, grid) == expected_bytes(values, batches, grid)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_a_fixed_batch_counts_a_partial_last_one_once(tmp_path, grid):
    path = save_zoo_net(tmp_path, batch=4)
    images = draw_images(10)
    padded = np.concatenate((images, images[-1:], images[-1:]))
    values = {name: value[:10] for name, value in run_zoo(path, padded, grid).items()}
    batches = split(images, 3) if grid == "mergeable" else split(images, 4)
    assert observe_bytes(path, ZOO, batches, grid) == expected_bytes(values, batches, grid)


def test_what_may_wait_is_done_when_all_batches_were_taken(tmp_path):
    images = read_digits(60)
    story = []

    def batches():
        yield from split(images, 20)
        story.append("taken")

    observer = Observer(prepare(DIGITS_MODEL, DIGIT_TENSORS, images.shape, tmp_path), ObserverSpec())
    observe_all(observer, batches(), story.append, lambda: story.append("meanwhile"))
    assert story == ["taken", "meanwhile", {"progress": [60, None]}]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3), st.randoms())
def test_order_batching_and_threads_give_the_same_bytes(sizes, threads, random):
    images = read_digits(60)
    whole = observe_bytes(DIGITS_MODEL, DIGIT_TENSORS, [images], threads=1)
    order = list(range(60))
    random.shuffle(order)
    batches, start = [], 0
    for size in [*sizes, 60]:
        batches.append(images[order[start : start + size]])
        start += size
    batches = [batch for batch in batches if len(batch)]
    assert observe_bytes(DIGITS_MODEL, DIGIT_TENSORS, batches, threads=threads) == whole


def test_shards_merge_to_the_bytes_of_one_pass():
    images = read_digits(101)
    spec = ObserverSpec("mergeable", 1)
    merged = observe(DIGITS_MODEL, DIGIT_TENSORS, [images[:7]], spec, print)
    for shard in (images[64:], images[7:64]):
        merged = merge_observations(observe(DIGITS_MODEL, DIGIT_TENSORS, [shard], spec, print), merged)
    assert observation_to_bytes(merged) == observe_bytes(DIGITS_MODEL, DIGIT_TENSORS, split(images, 8))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_tensorrt_grid(threads):
    images = read_digits(64)
    once = observe_bytes(DIGITS_MODEL, DIGIT_TENSORS, split(images, 20), "tensorrt", 2)
    assert observe_bytes(DIGITS_MODEL, DIGIT_TENSORS, split(images, 20), "tensorrt", threads) == once
    assert observe_bytes(DIGITS_MODEL, DIGIT_TENSORS, split(images, 10), "tensorrt", threads) != once


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_nonfinite_names_tensor_and_image(tmp_path, grid, value):
    images = draw_images(9)
    images[6, 1, 3, 3] = value
    with pytest.raises(CalibrationNonfinite) as caught:
        observe_bytes(save_zoo_net(tmp_path), ZOO, split(images, 2), grid)
    assert caught.value.facts == {"tensor": "x", "image": 6}


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_nonfinite_inside_the_net_is_found_in_its_batch(tmp_path, grid):
    path = save_net(tmp_path, [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Relu", ["e"], ["y"])], {}, "y")
    images = draw_images(20)
    images[13, 0, 0, 0] = 1000
    with pytest.raises(CalibrationNonfinite) as caught:
        observe_bytes(path, ["x", "e", "y"], split(images, 7), grid)
    assert caught.value.facts == {"tensor": "e", "image": 13}


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_only_the_input_needs_no_forward_pass(tmp_path, grid):
    images = draw_images(5)
    path = save_zoo_net(tmp_path)
    padded = run_zoo(path, images)["padded"]
    expected = expected_bytes({"x": images, "padded": padded}, [images], grid)
    assert observe_bytes(path, ["x", "padded"], [images], grid) == expected


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_batches_that_are_zero_at_first_do_not_set_the_range(tmp_path, grid):
    path = save_zoo_net(tmp_path)
    images = draw_images(12)
    images[:6] = 0
    batches = split(images, 3)
    assert observe_bytes(path, ZOO, batches, grid) == expected_bytes(run_zoo(path, images, grid), batches, grid)


def test_fewer_tensors_have_the_same_ranges(tmp_path):
    path, images = save_zoo_net(tmp_path), draw_images(8)
    needed = ["padded", "r1", "padded2", "f"]  # the runtime fuses more where less is fetched, and rounds differently
    spec = ObserverSpec("mergeable", 2)
    few = observe(path, needed, [images], spec, print)
    every = observe(path, ZOO, [images], spec, print)
    for name in needed:
        assert few.histograms[name].count == every.histograms[name].count
        assert few.histograms[name].absmax == pytest.approx(every.histograms[name].absmax, rel=1e-5)


def test_images_of_another_size_are_refused_with_the_runtimes_words(tmp_path):
    with pytest.raises(CalibrationProblem, match="does not run"):
        observe_bytes(save_zoo_net(tmp_path), ZOO, [draw_images(2, (4, 12, 12))])


def test_unknown_tensors_and_no_images(tmp_path):
    path = save_zoo_net(tmp_path)
    with pytest.raises(CalibrationProblem, match="no activations nowhere"):
        observe_bytes(path, ["r1", "nowhere"], [draw_images(2)])
    with pytest.raises(DatasetTooSmall):
        observe_bytes(path, ["r1"], [])


def test_more_images_may_follow_an_observation(tmp_path):
    path, images = save_zoo_net(tmp_path), draw_images(9)
    with Observer(prepare(path, ZOO, images.shape, tmp_path), ObserverSpec("mergeable", 2)) as observer:
        observer.add(images[:5])
        half = observation_to_bytes(observer.observation())
        observer.add(images[5:])
        whole = observation_to_bytes(observer.observation())
    assert half == observe_bytes(path, ZOO, [images[:5]])
    assert whole == observe_bytes(path, ZOO, [images])


def count_collectors():
    gc.collect()
    return sum(type(found) is MergeableCollector for found in gc.get_objects())  # a proxy says that it is of another type


def test_looks_see_the_first_images_and_few_counts_are_kept_at_a_time(tmp_path):
    path, images = DIGITS_MODEL, np.tile(read_digits(100), (5, 1, 1, 1))
    prepared = prepare(path, DIGIT_TENSORS, images.shape, tmp_path)
    told, kept, before = [], [], count_collectors()

    def watch(observation):
        told.append(observation)
        kept.append(count_collectors() - before)

    with Observer(prepared, ObserverSpec(threads=2, total_images=len(images), watch=watch)) as observer:
        for batch in split(images, prepared.images):
            observer.add(batch)
        whole = observer.observation()
    full = [prepared.images * -(-count // prepared.images) for count in (32, 63, 125, 250)]
    assert [observation.images for observation in told] == full
    for observation in (*told, whole):
        first = observe_bytes(path, DIGIT_TENSORS, [images[: observation.images]])
        assert observation_to_bytes(observation) == first
    assert max(kept) <= 2 * 2  # what is told of and what comes next, by thread


def test_shapes_that_depend_on_the_values(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["where"]),
        helper.make_node("Cast", ["where"], ["y"], to=1),
    ]
    path, images = save_net(tmp_path, nodes, {}, "y"), draw_images(3)
    observation = observe(path, ["r", "y"], [images], ObserverSpec(threads=1), print)
    assert observation.histograms["y"].count == 4 * (images > 0).sum()


def test_progress_is_reported(tmp_path):
    told = []
    spec = ObserverSpec("mergeable", 1, total_images=4)
    observe(save_zoo_net(tmp_path), ["y"], split(draw_images(4), 2), spec, told.append)
    assert told[-1] == {"progress": [4, 4]}
