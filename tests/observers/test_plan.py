"""What is fetched, and what stands for a pooled tensor on each grid."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.observers.onnxruntime import ObserverSpec
from app.observers.plan import make_plan
from app.observers.views import Plan, View
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt
from app.quant.observation import Grid
from tests.observers.nets import run_all, save_net
from tests.observers.observing import observe

IMAGES = np.random.default_rng(11).normal(size=(6, 3, 12, 12)).astype(np.float32)
NODE = helper.make_node


def max_pool(tensor: str, *outputs: str) -> onnx.NodeProto:
    return NODE("MaxPool", [tensor], list(outputs), kernel_shape=[2, 2], strides=[2, 2])


def save_pools(folder: Path) -> Path:
    """Save a net with a MaxPool of a Relu, of another MaxPool and behind a Transpose, and with a Relu and a Pad behind one."""
    weights = {
        "w": np.random.default_rng(2).normal(size=(16, 3, 3, 3)).astype(np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    nodes = [
        NODE("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        NODE("Relu", ["c"], ["r"]),
        max_pool("r", "m1", "where"),
        NODE("Transpose", ["m1"], ["t"], perm=[0, 1, 3, 2]),
        max_pool("t", "m2"),
        NODE("Flatten", ["m2"], ["y"]),
        max_pool("c", "m3"),
        NODE("Relu", ["m3"], ["r3"]),
        NODE("Pad", ["m3", "pads"], ["padded"]),
        NODE("Clip", ["padded"], ["k"]),
    ]
    return save_net(folder, nodes, weights, "y")


EVERY = ["c", "r", "m1", "t", "m2", "y", "m3", "r3", "padded", "k"]
RELU = View("c", low=0.0)
PADS = (((0, 0), (0, 0), (1, 1), (1, 1)),)


def plan_of(folder: Path, tensors: list[str], grid: Grid) -> Plan:
    return make_plan(onnx.load(save_pools(folder)), tensors, grid)


def test_on_the_mergeable_grid_every_maxpool_is_measured(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, EVERY, "mergeable")
    assert plan.fetched == ("c", "m1", "m2", "m3")
    assert plan.views["t"] == View("m1")
    assert plan.views["y"] == View("m2")
    assert plan.views["r3"] == View("m3", low=0.0)


def test_on_tensorrts_grid_what_goes_into_a_maxpool_stands_for_what_comes_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ["c", "r", "m1", "t", "m2", "y", "m3"], "tensorrt")
    assert plan.fetched == ("c",)
    assert plan.views == {"c": View("c"), **dict.fromkeys(["r", "m1", "t", "m2", "y"], RELU), "m3": View("c")}


def test_what_is_made_of_a_maxpools_output_is_measured(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ["c", "m3", "r3"], "tensorrt")
    assert plan == Plan("x", ("c", "r3"), {"c": View("c"), "m3": View("c"), "r3": View("r3")})
    plan = plan_of(tmp_path, ["c", "m3", "r3", "padded", "k"], "tensorrt")
    assert plan.fetched == ("c", "m3")
    assert (plan.views["m3"], plan.views["r3"]) == (View("c"), View("m3", low=0.0))
    assert plan.views["padded"] == plan.views["k"] == View("m3", pads=PADS)


def test_without_what_is_before_the_input_of_the_maxpool_is_fetched(tmp_path: Path) -> None:
    assert plan_of(tmp_path, ["y"], "tensorrt") == Plan("x", ("r",), {"y": View("r")})


def test_places_of_the_largest_values_are_no_activation(tmp_path: Path) -> None:
    assert plan_of(tmp_path, ["where"], "tensorrt") == Plan("x", ("where",), {"where": View("where")})


@pytest.mark.parametrize("tensors", [EVERY, ["m2", "r3"], ["y"]])
def test_histograms_are_those_of_the_definition(tmp_path: Path, tensors: list[str]) -> None:
    path = save_pools(tmp_path)
    fetched = run_all(path, IMAGES, ["c", "m3"])
    relu, pooled = np.maximum(fetched["c"], 0), fetched["m3"]
    padded = np.pad(pooled, PADS[0])
    values = {"c": fetched["c"], **dict.fromkeys(["r", "m1", "t", "m2", "y"], relu)}
    values |= {"m3": fetched["c"], "r3": np.maximum(pooled, 0), "padded": padded, "k": padded}
    found = observe(path, tensors, [IMAGES[:4], IMAGES[4:]], ObserverSpec("tensorrt", 2), print).histograms
    for name in tensors:
        expected = empty_tensorrt()
        for part in (values[name][:4], values[name][4:]):
            expected = add_tensorrt_batch(expected, part)
        assert found[name].count == expected.count
        assert (found[name].magnitude_bins()[0] == expected.counts).all()
        assert (found[name].minimum, found[name].maximum) == (expected.minimum, expected.maximum)
