"""Drift of the thresholds from look to look."""

import numpy as np
import pytest

from app.quant.convergence import Convergence
from app.quant.histogram import mergeable_from_values
from app.quant.observation import Observation


def observation(images: int, **values: list[float]) -> Observation:
    histograms = {name: mergeable_from_values(np.array(numbers, np.float32)) for name, numbers in values.items()}
    return Observation("mergeable", images, histograms)


def test_the_largest_move_of_any_tensor_counts() -> None:
    convergence = Convergence(["minmax"], 99.99, 0.1)
    assert not convergence.look(observation(16, a=[1.0], b=[2.0]))
    assert not convergence.look(observation(32, a=[1.05], b=[3.0]))
    assert convergence.look(observation(64, a=[1.1], b=[3.0]))
    assert [(point["images"], point["tensor"]) for point in convergence.curve] == [(32, "b"), (64, "a")]
    assert [point["drift"] for point in convergence.curve] == pytest.approx([0.5, 1.1 / 1.05 - 1], rel=1e-5)


def test_every_method_is_watched() -> None:
    convergence = Convergence(["minmax", "percentile"], 50, 0.1)
    convergence.look(observation(16, a=[1.0] * 10 + [9.0]))
    assert not convergence.look(observation(32, a=[5.0] * 10 + [9.0]))
    assert convergence.curve[0]["method"] == "percentile"


def test_a_tensor_that_comes_alive_moves_infinitely() -> None:
    convergence = Convergence(["minmax"], 99.99, 0.5)
    convergence.look(observation(16, a=[0.0], b=[1.0]))
    assert not convergence.look(observation(32, a=[0.1], b=[1.0]))
    assert convergence.curve == [{"since": 16, "images": 32, "drift": None, "tensor": "a", "method": "minmax"}]


def test_tensors_that_stay_zero_do_not_move() -> None:
    convergence = Convergence(["minmax"], 99.99, 0.5)
    convergence.look(observation(16, a=[0.0]))
    assert convergence.look(observation(32, a=[0.0]))
    assert convergence.curve == [{"since": 16, "images": 32, "drift": 0.0, "tensor": None, "method": "minmax"}]
