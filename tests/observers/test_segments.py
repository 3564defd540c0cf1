"""Passes cut into segments give the bits of the whole graph, in less memory."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from app.observers import segments
from app.observers.forward import Forward
from app.observers.onnxruntime import ObserverSpec
from app.observers.passes import place_tensors
from app.quant.observation import observation_to_bytes
from tests.observers.nets import ZOO, save_net, save_zoo_net
from tests.observers.observing import observe, prepare

IMAGES = np.random.default_rng(5).normal(size=(7, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def fine_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)


@pytest.mark.parametrize("grid", ["mergeable", "tensorrt"])
def test_cut_and_whole_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid) -> None:
    path = save_zoo_net(tmp_path)
    whole = observation_to_bytes(observe(path, ZOO, [IMAGES], ObserverSpec(grid, 2), print))
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    (tmp_path / "cut").mkdir()
    assert len(prepare(path, ZOO, IMAGES.shape, tmp_path / "cut").segments) > 5
    assert observation_to_bytes(observe(path, ZOO, [IMAGES], ObserverSpec(grid, 2), print)) == whole


@pytest.mark.usefixtures("fine_cuts")
def test_places_of_tensors_that_live_together_do_not_overlap(tmp_path: Path) -> None:
    prepared = prepare(save_zoo_net(tmp_path), ZOO, IMAGES.shape, tmp_path)
    places = place_tensors(prepared)
    sizes = {name: 4 * int(np.prod(tensor.shape)) for name, tensor in prepared.tensors.items()}
    assert places.size < sum(sizes.values())
    for segment in prepared.segments:
        alive = sorted({*segment.inputs, *segment.outputs}, key=lambda name: places.starts[name])
        for one, other in itertools.pairwise(alive):
            assert places.starts[one] + sizes[one] <= places.starts[other]


@pytest.mark.usefixtures("fine_cuts")
def test_shapes_that_depend_on_the_values_are_run_unbound(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["where"]),
        helper.make_node("Cast", ["where"], ["c"], to=1),
        helper.make_node("Mul", ["c", "c"], ["y"]),
    ]
    observation = observe(save_net(tmp_path, nodes, {}, "y"), ["r", "c", "y"], [IMAGES], ObserverSpec(threads=1), print)
    assert observation.histograms["y"].count == observation.histograms["c"].count == 4 * (IMAGES > 0).sum()


@pytest.mark.usefixtures("fine_cuts")
def test_whole_numbers_are_handed_from_segment_to_segment(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["k"], axis=1),
        helper.make_node("Cast", ["k"], ["f"], to=1),
        helper.make_node("Add", ["x", "f"], ["a"]),
        helper.make_node("Exp", ["a"], ["e"]),
        helper.make_node("Pow", ["e", "k"], ["y"]),
    ]
    path = save_net(tmp_path, nodes, {}, "y")
    prepared = prepare(path, ["a", "e", "y"], IMAGES.shape, tmp_path)
    assert prepared.tensors["k"].dtype == "int64"
    given = Forward(prepared).run_unbound(np.repeat(IMAGES[:1], prepared.images, axis=0))
    values = {name: value for some in given for name, value in some.items()}
    places = IMAGES[:1].argmax(axis=1, keepdims=True)
    assert np.allclose(values["y"][:1], np.exp(IMAGES[:1] + places) ** places, rtol=1e-5)
    assert observe(path, ["a", "e", "y"], [IMAGES], ObserverSpec(threads=2), print).histograms["y"].count == IMAGES.size
