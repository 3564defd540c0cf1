"""TensorRT's own thresholds of 720 arrays and of their Relus: here no forward pass excuses anything, every bin is the same.

TensorRT 10.6 on an H200, one batch of an array at a time.
"""

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from app.observers.onnxruntime import ObserverSpec
from app.quant.observation import Observation
from app.quant.thresholds import DerivedMethod, compute_amax
from tests.observers.arrays import KINDS, make_array
from tests.observers.nets import save_net
from tests.observers.observing import observe

ARCHIVE = Path(__file__).parents[1] / "oracle" / "arrays.zip"
COUNT = 720
#: Another CPU may round these kinds otherwise; then they are other values than TensorRT saw.
BY_POWERS = frozenset({"growing", "laplace", "lognormal", "shrinking", "sigmoid", "softmax"})


@dataclass(frozen=True)
class Array:
    """What TensorRT calibrated on: float32[1, 1, 1, values], several times."""

    name: str
    batches: list[np.ndarray]


@cache
def read(name: str) -> bytes:
    with zipfile.ZipFile(ARCHIVE) as archive:
        return archive.read(name)


@cache
def theirs(method: str) -> dict[str, float]:
    """Return the scale of each tensor, some of which are so large or small that no table would take them; 0.0 of dead ones."""
    lines = (line.rpartition(": ") for line in read(f"{method}.cache").decode().splitlines()[1:])
    return {name: struct.unpack(">f", bytes.fromhex(scale.zfill(8)))[0] for name, _, scale in lines}


def read_array(number: int) -> Array:
    """Return the array, one batch after the other; skip the test where this CPU makes other values than TensorRT saw."""
    name, values = make_array(number)
    if hashlib.sha256(values.tobytes()).hexdigest() != json.loads(read("sha256.json"))[str(number)]:
        assert name.partition("_")[2] in BY_POWERS, "numpy draws other random numbers than it did when TensorRT saw these"
        pytest.skip("this CPU or numpy computes powers or logarithms otherwise")
    return Array(name, [batch.reshape(1, 1, 1, -1) for batch in values])


def save_array_net(folder: Path, size: int) -> Path:
    """Save a net of an input `x` of that many values and its Relu `y`."""
    return save_net(folder, [helper.make_node("Relu", ["x"], ["y"])], {}, "y", ("N", 1, 1, size))


def check_array(array: Array, seen: Observation) -> None:
    """Fail where a threshold of `x` or `y` is not TensorRT's."""
    methods: tuple[tuple[DerivedMethod, str], ...] = (("minmax", "minmax"), ("entropy", "entropy2"))
    for method, cached in methods:
        for own, other in (("x", array.name), ("y", f"relu_{array.name}")):
            amax = compute_amax(seen.histograms[own], method) if seen.histograms[own].absmax else 0.0
            assert amax == pytest.approx(theirs(cached)[other] * 127, rel=2e-7), (method, other)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    return cache(lambda size: save_array_net(tmp_path_factory.mktemp("net"), size))


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_are_tensorrts(nets: Callable[[int], Path], kind: str) -> None:
    for number in range(list(KINDS).index(kind), COUNT, len(KINDS)):
        array = read_array(number)
        path = nets(array.batches[0].size)
        check_array(array, observe(path, ["x", "y"], array.batches, ObserverSpec("tensorrt", 2), lambda _: None))
