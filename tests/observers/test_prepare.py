"""Models that are prepared with care: subgraphs, images that are not the first axis, images that influence each other."""

from functools import reduce
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.errors import CalibrationNonfinite, CalibrationProblem
from app.observers import segments
from app.observers.batch_axis import find_batch_axis
from app.observers.noise import make_noise
from app.observers.onnxruntime import ObserverSpec
from app.quant.histogram import mergeable_from_values
from app.quant.observation import Grid, Observation, merge_observations, observation_to_bytes
from tests.observers.nets import run_all, save_net
from tests.observers.observing import observe, prepare

IMAGES = np.random.default_rng(9).normal(size=(7, 3, 12, 12)).astype(np.float32)
NODE = helper.make_node


def bytes_of(path: Path, tensors: list[str], batches: list[np.ndarray]) -> bytes:
    return observation_to_bytes(observe(path, tensors, batches, ObserverSpec("mergeable", 2), print))


def expected(values: dict[str, np.ndarray], images: int) -> bytes:
    histograms = {name: mergeable_from_values(value) for name, value in values.items()}
    return observation_to_bytes(Observation("mergeable", images, histograms))


def save_with_if(folder: Path) -> Path:
    """Save a net whose If reads a convolution's output and has names of its own inside."""
    weight = np.random.default_rng(3).normal(size=(32, 3, 3, 3)).astype(np.float32)
    outputs = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    then = helper.make_graph([NODE("Relu", ["c"], ["half"]), NODE("Mul", ["half", "ramp"], ["inner"])], "then", [], outputs)
    other = helper.make_graph([NODE("Neg", ["c"], ["inner"])], "else", [], outputs)
    nodes = [
        NODE("Conv", ["x", "w"], ["c"]),
        NODE("ReduceMax", ["x"], ["top"], keepdims=0),
        NODE("Greater", ["top", "zero"], ["positive"]),
        NODE("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    ramp = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 1, 10, 10)
    return save_net(folder, nodes, {"w": weight, "zero": np.float32(0).reshape(()), "ramp": ramp}, "y")


@pytest.mark.parametrize("cut_bytes", [1, 1 << 30])
def test_what_a_subgraph_reads_keeps_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_bytes: int) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", cut_bytes)
    path = save_with_if(tmp_path)
    assert bytes_of(path, ["c", "y"], [IMAGES]) == expected(run_all(path, IMAGES, ["c", "y"]), 7)
    (tmp_path / "prepared").mkdir()
    prepared = prepare(path, ["c", "y"], IMAGES.shape, tmp_path / "prepared")
    assert len(prepared.segments) == (2 if cut_bytes == 1 else 1)


def test_sparse_weights_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    path = save_net(tmp_path, [NODE("Exp", ["x"], ["e"]), NODE("MatMul", ["e", "sparse"], ["y"])], {}, "y")
    model = onnx.load(path)
    values = numpy_helper.from_array(np.array([2.0, -1.0], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 30]), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [12, 12]))
    onnx.save_model(model, path)
    assert bytes_of(path, ["e", "y"], [IMAGES]) == expected(run_all(path, IMAGES, ["e", "y"]), 7)


def test_images_that_influence_each_other_are_run_one_by_one(tmp_path: Path) -> None:
    nodes = [NODE("ReduceMean", ["x"], ["mean"], axes=[0]), NODE("Sub", ["x", "mean"], ["y"])]
    path = save_net(tmp_path, nodes, {}, "y")
    assert prepare(path, ["y"], IMAGES.shape, tmp_path).images == 1
    assert bytes_of(path, ["y"], [IMAGES]) == bytes_of(path, ["y"], [IMAGES[::-1]])


@pytest.mark.parametrize("size", [12, 500])
def test_what_would_cross_the_images_of_a_batch_is_told(tmp_path: Path, size: int) -> None:
    shape = (1, 3, size, size)
    mean = [NODE("ReduceMean", ["x"], ["mean"], axes=[0]), NODE("Sub", ["x", "mean"], ["s"]), NODE("Exp", ["s"], ["y"])]
    softmax = [NODE("Exp", ["x"], ["s"]), NODE("Softmax", ["s"], ["y"], axis=0)]
    alone = [NODE("Exp", ["x"], ["s"]), NODE("Softmax", ["s"], ["y"], axis=1)]
    # Images lie one in the other here, but each is computed alone.
    within = [NODE("Transpose", ["x"], ["s"], perm=[1, 0, 2, 3]), NODE("Reshape", ["s", "flat"], ["y"])]
    given = ("N", *shape[1:])
    nets = (mean, softmax, alone)
    mixed = [prepare(save_net(tmp_path, nodes, {}, "y", given), ["s", "y"], shape, tmp_path) for nodes in nets]
    assert [prepared.crossing[-1:] for prepared in mixed] == [("y",), ("y",), ()]
    path = save_net(tmp_path, within, {"flat": np.array([-1, size])}, "y", given)
    assert prepare(path, ["s", "y"], shape, tmp_path).crossing == ()
    # Neither the last of several outputs nor what stands last tells of it here.
    heads = [*mean[:2], NODE("Exp", ["s"], ["y"]), NODE("Exp", ["x"], ["z"])]
    path = save_net(tmp_path, heads, {}, "y", given)
    assert "y" in prepare(path, ["s", "y", "z"], shape, tmp_path).crossing


def test_a_batch_that_is_fixed_inside_is_told(tmp_path: Path) -> None:
    nodes = [NODE("Reshape", ["x", "rows"], ["r"], name="flatten"), NODE("Exp", ["r"], ["y"])]
    path = save_net(tmp_path, nodes, {"rows": np.array([4, 432])}, "y")
    with pytest.raises(CalibrationProblem) as caught:
        prepare(path, ["y"], IMAGES.shape, tmp_path)
    assert caught.value.detail.startswith(
        "Calibration failed: the input takes any number of images, but not one alone: where the number is fixed inside, export "
        "the model with a dynamic batch throughout, or with the input's batch fixed as well; the model does not run on a batch "
        "of shape (1, 3, 12, 12): node flatten (Reshape) fails: "
    )
    any_size = save_net(tmp_path, nodes, {"rows": np.array([1, 192])}, "y", ("N", 3, "H", "W"))
    with pytest.raises(CalibrationProblem, match=r"; set preprocess\.size to one that the model takes"):
        prepare(any_size, ["y"], IMAGES.shape, tmp_path)


def test_a_fixed_batch_along_another_axis_counts_no_filling(tmp_path: Path) -> None:
    nodes = [NODE("Reshape", ["x", "rows"], ["r"]), NODE("Transpose", ["r"], ["t"], perm=[1, 0, 2]), NODE("Exp", ["t"], ["y"])]
    path = save_net(tmp_path, nodes, {"rows": np.array([3, 36, 12])}, "y", (3, 3, 12, 12))
    assert prepare(path, ["y"], IMAGES.shape, tmp_path).tensors["y"].batch_axis == 1
    values = np.exp(IMAGES.reshape(7, 36, 12)).transpose(1, 0, 2)
    ours = observe(path, ["y"], [IMAGES], ObserverSpec("mergeable", 2), print).histograms["y"]
    assert (ours.count, ours.absmax) == (values.size, pytest.approx(values.max(), rel=1e-6))


def test_a_fixed_batch_that_is_mixed_takes_whole_passes_alone(tmp_path: Path) -> None:
    nodes = [NODE("ReduceMean", ["x"], ["mean"], axes=[0]), NODE("Sub", ["x", "mean"], ["y"])]
    path = save_net(tmp_path, nodes, {}, "y", (3, 3, 12, 12))
    assert observe(path, ["y"], [IMAGES[:6]], ObserverSpec(), print).images == 6
    with pytest.raises(CalibrationProblem, match="a number of images that 3 divides"):
        observe(path, ["y"], [IMAGES], ObserverSpec(), print)
    # Six images are enough there, but not four and two.
    with pytest.raises(CalibrationProblem, match="with a batch_size that it divides"):
        observe(path, ["y"], [IMAGES[:4], IMAGES[4:6]], ObserverSpec("tensorrt"), print)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_a_fixed_batch_counts_no_filling_where_noise_leaves_a_tensor_zero(tmp_path: Path, grid: Grid) -> None:
    nodes = [NODE("Sub", ["x", "ten"], ["s"]), NODE("Relu", ["s"], ["r"]), NODE("Exp", ["r"], ["y"])]
    path = save_net(tmp_path, nodes, {"ten": np.float32(10).reshape(())}, "y", (3, 3, 12, 12))
    ours = observe(path, ["r", "y"], [20 * IMAGES], ObserverSpec(grid, 2), print).histograms
    assert (ours["r"].count, ours["y"].count) == (IMAGES.size, IMAGES.size)
    parts = [observe(path, ["r", "y"], [20 * part], ObserverSpec(), print) for part in (IMAGES[:3], IMAGES[3:5], IMAGES[5:])]
    whole = observe(path, ["r", "y"], [20 * IMAGES], ObserverSpec(), print)
    assert observation_to_bytes(reduce(merge_observations, parts)) == observation_to_bytes(whole)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_the_bad_image_is_named_along_whatever_axis(tmp_path: Path, grid: Grid) -> None:
    nodes = [NODE("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), NODE("Log", ["t"], ["l"]), NODE("Exp", ["l"], ["y"])]
    path = save_net(tmp_path, nodes, {}, "y", (4, 3, 12, 12))
    images = np.abs(IMAGES) + np.float32(1)
    images[6, 0] = 0
    with pytest.raises(CalibrationNonfinite) as caught:
        observe(path, ["l"], [images], ObserverSpec(grid, 1), print)
    assert caught.value.facts == {"tensor": "l", "image": 6}


def test_axes_are_told_by_what_changes() -> None:
    before = np.zeros((4, 6, 2))
    after = before.copy()
    assert find_batch_axis(before, after, 2) is None
    after[:, 3:] = 1
    assert find_batch_axis(before, after, 2) == 1
    after[0, 0] = 1
    with pytest.raises(ValueError, match="changes what is computed of another"):
        find_batch_axis(before, after, 2)
    with pytest.raises(ValueError, match="shape depends"):
        find_batch_axis(before, before[:2], 2)


def test_noise_is_even_and_the_same_in_every_run() -> None:
    noise = make_noise((4, 3, 100, 100), seed=0)
    assert (noise.dtype, noise.min() >= 0, noise.max() < 1) == (np.float32, True, True)
    shares = np.histogram(noise, 10, (0, 1))[0] / noise.size
    assert np.allclose(shares, 0.1, atol=0.005)
    assert abs(np.corrcoef(noise.ravel()[:-1], noise.ravel()[1:])[0, 1]) < 0.02
    assert np.array_equal(noise, make_noise(noise.shape, seed=0))
    assert not np.isin(noise.ravel()[:100], make_noise((30_000,), seed=1)).all()
    assert make_noise((2,), seed=0)[1] == np.float32(0xE220A839 >> 8) / np.float32(1 << 24)  # the first of SplitMix64(0)
