"""TensorRT's own thresholds of 720 arrays and of their Relus: here no forward pass excuses anything, every bin is the same.

TensorRT 10.6 on an H200, one batch of an array at a time.
"""

import hashlib
import json
import struct
import zipfile
from functools import cache
from pathlib import Path

import pytest
from onnx import helper

from app.observers.onnxruntime import ObserverSpec
from app.quant.thresholds import DerivedMethod, compute_amax
from tests.observers.arrays import KINDS, make_array
from tests.observers.nets import save_net
from tests.observers.observing import observe

ARCHIVE = Path(__file__).parents[1] / "oracle" / "arrays.zip"
COUNT = 720
#: Another CPU may round the exp of these kinds otherwise; then they are other values than TensorRT saw.
BY_EXP = frozenset({"lognormal", "sigmoid", "softmax"})


@cache
def read(name: str) -> bytes:
    with zipfile.ZipFile(ARCHIVE) as archive:
        return archive.read(name)


@cache
def theirs(method: str) -> dict[str, float]:
    """Return the scale of each tensor, some of which are so large or small that no table would take them; 0.0 of dead ones."""
    lines = (line.rpartition(": ") for line in read(f"{method}.cache").decode().splitlines()[1:])
    return {name: struct.unpack(">f", bytes.fromhex(scale.zfill(8)))[0] for name, _, scale in lines}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory):
    """Return what saves, once for a size, a net of an input `x` and its Relu `y`."""
    folder = tmp_path_factory.mktemp("nets")

    @cache
    def save(size: int) -> Path:
        (folder / str(size)).mkdir()
        return save_net(folder / str(size), [helper.make_node("Relu", ["x"], ["y"])], {}, "y", ("N", 1, 1, size))

    return save


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_are_tensorrts(nets, kind: str) -> None:
    numbers = range(list(KINDS).index(kind), COUNT, len(KINDS))
    known = json.loads(read("sha256.json"))
    for number in numbers:
        name, values = make_array(number)
        if hashlib.sha256(values.tobytes()).hexdigest() != known[str(number)]:
            assert kind in BY_EXP, "these are not the values that TensorRT saw"
            pytest.skip("this CPU or numpy computes another exp")
        batches = [batch.reshape(1, 1, 1, -1) for batch in values]
        seen = observe(nets(values.shape[1]), ["x", "y"], batches, ObserverSpec("tensorrt", 2), lambda _: None)
        methods: tuple[tuple[DerivedMethod, str], ...] = (("minmax", "minmax"), ("entropy", "entropy2"))
        for method, cached in methods:
            for own, other in (("x", name), ("y", f"relu_{name}")):
                scale = theirs(cached)[other]
                amax = compute_amax(seen.histograms[own], method) if seen.histograms[own].absmax else 0.0
                assert amax == pytest.approx(scale * 127, rel=2e-7), (method, other)
