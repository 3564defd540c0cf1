"""TensorRT's own caches of random nets of most operators that it has, from activations computed here.

Of TensorRT 10.6 on an H200. Its sigmoid is up to 4e-6 off, so that what it gives, and what is made of that, is as well.
Nets with Selu are left out, whose alpha its parser rounds to 1.6732.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.observers.onnxruntime import ObserverSpec
from app.quant.graph import find_activations
from app.quant.inner import find_observable_inner
from app.quant.native_cache import scales_from_native_cache
from app.quant.table import scales_from_table, table_from_observation
from tests.observers.observing import observe
from tests.observers.test_oracles import TIE, excess_of

ARCHIVE = Path(__file__).parents[1] / "oracle" / "random-nets.zip"
NETS = sorted(int(Path(name).stem) for name in zipfile.ZipFile(ARCHIVE).namelist() if name.endswith(".onnx"))
CLOSE = 4e-6
#: The only threshold that is a near-tie.
TIED = {1: ["t23_Mul"]}


@dataclass(frozen=True)
class RandomNet:
    """A net of the archive; how its images were made is in its metadata."""

    number: int

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(ARCHIVE) as archive:
            return archive.read(f"{self.number}{name}")

    def batches(self, model: onnx.ModelProto) -> list[np.ndarray]:
        """Return the very batches that TensorRT got; fails where numpy makes other numbers of the seed."""
        told = {prop.key: prop.value for prop in model.metadata_props}
        size = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        images = make_images(told["kind"], int(told["seed"]), (int(told["images"]), *size))
        assert hashlib.sha256(images.tobytes()).hexdigest().startswith(told["sha256"]), "these are not TensorRT's images"
        batch = int(told["batch"])
        return [images[start : start + batch] for start in range(0, len(images), batch)]


def make_images(kind: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 images: normal, uniform in 0..1, or each uniform within bounds of its own."""
    random = np.random.default_rng(seed)
    _chosen = (random.choice([4, 8]), random.choice([3, 4, 5]), random.integers(3))  # images a batch, batches, the kind
    if kind == "normal":
        return random.normal(0, 0.5, shape).astype(np.float32)
    if kind == "uniform":
        return random.uniform(0, 1, shape).astype(np.float32)
    return (random.uniform(-1, 1, shape) * random.uniform(0.2, 1.5, (shape[0], 1, 1, 1))).astype(np.float32)


@pytest.mark.parametrize("number", NETS)
def test_scales_are_tensorrts(tmp_path: Path, number: int) -> None:
    net = RandomNet(number)
    (tmp_path / "m.onnx").write_bytes(net.read(".onnx"))
    model = onnx.load(tmp_path / "m.onnx")
    tensors = find_activations(model)
    tensors += find_observable_inner(model, set(tensors))
    seen = observe(tmp_path / "m.onnx", tensors, net.batches(model), ObserverSpec("tensorrt", 2), lambda _: None)
    ties = []
    for method, cache in (("minmax", "minmax"), ("entropy", "entropy2")):
        theirs, dead = scales_from_native_cache(net.read(f"-{cache}.cache"), tensors)
        table = table_from_observation(seen, method)
        ours = scales_from_table(table)
        assert (ours.keys(), set(table.dead)) == (theirs.keys(), set(dead)), method
        others = [tensor for tensor in tensors if tensor in ours and ours[tensor] != pytest.approx(theirs[tensor], rel=CLOSE)]
        assert method == "entropy" or not others
        ties += [(tensor, excess_of(seen.histograms[tensor], float(theirs[tensor]))) for tensor in others]
    assert [tensor for tensor, _ in ties] == TIED.get(number, [])
    assert all(excess <= TIE for _, excess in ties), ties
