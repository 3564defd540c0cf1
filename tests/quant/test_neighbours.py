"""Ranges through neighbours: equal values or true bounds, whatever the net, and where each came from."""

import numpy as np
import onnx
import pytest

from app.quant.graph import find_activations, find_needed_tensors
from app.quant.neighbours import fill_from_neighbours
from tests.quant.nets import NETS, Net, images, measured_scales, resnet, run
from tests.quant.samples import digits_model, parse_oracle


def measured_amax(model: onnx.ModelProto) -> dict[str, float]:
    names = find_activations(model)
    return {name: 127 * float(scale) for name, scale in measured_scales(model, images(model, 8), names).items()}


@pytest.mark.parametrize("name", NETS)
def test_what_is_filled_is_never_below_the_truth(name: str) -> None:
    model = NETS[name]()
    truth = measured_amax(model)
    for hidden in truth:
        known = {tensor: amax for tensor, amax in truth.items() if tensor != hidden}
        for tensor, filled in fill_from_neighbours(model, known, [hidden]).items():
            assert filled.amax >= truth[tensor] * (1 - 1e-6), (tensor, filled)
            if filled.rule == "same":
                assert filled.amax == pytest.approx(truth[tensor], rel=1e-6)


def test_a_legacy_cache_gets_the_flattened_tensor_back() -> None:
    model = digits_model()
    amax = {name: 127 * float(scale) for name, scale in parse_oracle("entropy").items()}
    missing = [name for name in find_needed_tensors(model) if name not in amax]
    (filled,) = fill_from_neighbours(model, amax, missing).values()
    assert missing == ["/9/Flatten_output_0"]
    assert (filled.rule, filled.source, filled.through) == ("same", ("/8/GlobalAveragePool_output_0",), ("Flatten",))
    assert filled.amax == amax["/8/GlobalAveragePool_output_0"]


def pools() -> onnx.ModelProto:
    net = Net(["N", 16, 8, 8])
    net.node("Clip", ["input", net.constant("low", 0.0), net.constant("high", 6.0)], "clipped")
    net.node("Clip", ["input", net.constant("three", 3.0), net.constant("nine", 9.0)], "raised")
    net.node("AveragePool", ["clipped"], "mean", kernel_shape=[2, 2], strides=[2, 2])
    net.node("MaxPool", ["raised"], "most", kernel_shape=[2, 2], strides=[2, 2])
    net.node("Concat", ["mean", "most"], "joined", axis=1)
    net.node("Transpose", ["joined"], "turned", perm=[0, 2, 3, 1])
    net.node("Sigmoid", ["turned"], "output")
    return net.model({"output": ["N", 4, 4, 32]})


def test_bounds_and_ways_are_told() -> None:
    model = pools()
    found = fill_from_neighbours(model, {"input": 2.0, "most": 8.0}, find_activations(model))
    told = {name: (filled.amax, filled.rule, filled.source, filled.through) for name, filled in found.items()}
    assert told["clipped"] == (2.0, "bound", ("input",), ("Clip",))
    assert told["mean"] == (2.0, "bound", ("input",), ("Clip", "AveragePool"))
    assert "raised" not in told  # it may be larger than the input, and larger than what the pool lets through
    assert told["joined"] == (8.0, "bound", ("input", "most"), ("Concat",))
    assert told["turned"] == (8.0, "bound", ("input", "most"), ("Concat", "Transpose"))
    assert told["output"] == (1.0, "bound", (), ("Sigmoid",))


def test_equal_values_go_before_bounds() -> None:
    model = pools()
    found = fill_from_neighbours(model, {"mean": 1.0, "most": 2.0, "turned": 1.5}, ["joined"])
    assert (found["joined"].amax, found["joined"].rule) == (1.5, "same")


def test_a_clip_bounds_what_its_input_does_not() -> None:
    found = fill_from_neighbours(pools(), {"input": 100.0}, ["clipped", "mean"])
    assert (found["clipped"].amax, found["mean"].amax) == (6.0, 6.0)
    without = fill_from_neighbours(pools(), {}, ["clipped", "mean", "raised"])
    assert {name: (filled.amax, filled.source) for name, filled in without.items()} == {"clipped": (6.0, ()), "mean": (6.0, ())}


def test_nothing_is_made_up() -> None:
    model = resnet()
    assert fill_from_neighbours(model, {"input": 1.0}, ["a1", "b_sum", "output"]) == {}
    assert np.isfinite(run(model, images(model))["output"]).all()
