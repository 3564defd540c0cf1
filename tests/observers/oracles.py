"""Models and images of which TensorRT's own calibrators wrote the caches in tests/oracle, made again here."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper
from PIL import Image

from app.bench.resnet50 import make_resnet50
from app.quant.native_cache import scales_from_native_cache
from tests.quant.published import published_path
from tests.quant.samples import assets

FOLDER = Path(__file__).parents[1] / "oracle"

Method = Literal["entropy2", "minmax"]


@dataclass(frozen=True)
class Oracle:
    """A model that `save` writes to a folder or finds, and its images in one batch after the other.

    The images are the first photos in sorted order, sized to (height, width); `pixels` is the start of the sha256 of them.
    """

    name: str
    save: Callable[[Path], Path]
    images: int
    size: tuple[int, int]
    batch: int
    pixels: str
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    #: Tensors whose largest magnitude two forward passes round far apart, see `DETECTORS_MAP`.
    rounded: frozenset[str] = frozenset()

    def batches(self) -> Iterator[np.ndarray]:
        """Yield the very batches that TensorRT got; fails where this machine decodes other pixels."""
        array = read_photos(self.images, self.size)
        array = array if self.layout == "NHWC" else np.ascontiguousarray(array.transpose(0, 3, 1, 2))
        assert hashlib.sha256(array.tobytes()).hexdigest().startswith(self.pixels), "these are not the pixels that TensorRT saw"
        for start in range(0, self.images, self.batch):
            yield array[start : start + self.batch]

    def cache(self, method: Method) -> bytes:
        """Return the cache of a method."""
        return (FOLDER / f"{self.name}-{method}.cache").read_bytes()

    def scales(self, method: Method, names: list[str]) -> dict[str, np.float32]:
        """Return the scales of these tensors, but for those that were zero on every image."""
        return scales_from_native_cache(self.cache(method), names)[0]


def read_photos(count: int, size: tuple[int, int]) -> np.ndarray:
    """Return photos as float32[count, height, width, 3] in -1..1, or skip the test."""
    height, width = size
    with zipfile.ZipFile(assets() / "photos-256.zip") as archive:
        opened = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in sorted(archive.namelist())[:count]]
    sized = [photo.resize((width, height), Image.Resampling.BILINEAR) for photo in opened]
    return (np.stack([np.asarray(photo, np.float32) for photo in sized]) - np.float32(127)) / np.float32(128)


def published(name: str) -> Callable[[Path], Path]:
    """Return what finds the file of a published net, or skips the test."""
    return lambda _folder: published_path(name)


def stored(name: str) -> Callable[[Path], Path]:
    """Return what finds a model beside its caches."""
    return lambda _folder: FOLDER / f"{name}.onnx"


def save_thin_resnet50(folder: Path) -> Path:
    """Write a ResNet-50 of a quarter of its width, with random weights."""
    path = folder / "thin-resnet50.onnx"
    onnx.save_model(make_resnet50(width=16), path)
    return path


def save_thin_resnet50_nhwc(folder: Path) -> Path:
    """Write the same net with a Transpose in front, as exporters of TensorFlow put it."""
    model = onnx.load(save_thin_resnet50(folder))
    (given,) = model.graph.input
    shape = given.type.tensor_type.shape
    channels = shape.dim[1]
    shape.dim.append(channels)
    del shape.dim[1]
    model.graph.node.insert(0, helper.make_node("Transpose", ["input_nhwc"], [given.name], name="to_nchw", perm=[0, 3, 1, 2]))
    given.name = "input_nhwc"
    path = folder / "thin-resnet50-nhwc.onnx"
    onnx.save_model(model, path)
    return path


#: The map of a text detector is 3e-6 and less on the first 12 photos, and 0.23 on the last: so far beyond the range that
#: TensorRT sets it anew. It is the sigmoid of sums that reach -82, of which -1.2 is left, rounded by 1e-5.
DETECTORS_MAP = frozenset({"sigmoid_0.tmp_0"})

ORACLES = (
    # Small nets of every kind of pooling, of moving values, and of computing one value from one or two.
    Oracle("kinds-pools", stored("kinds-pools"), 64, (24, 24), 16, "c6ab30519f7156d2"),
    Oracle("kinds-moves", stored("kinds-moves"), 64, (24, 24), 16, "c6ab30519f7156d2"),
    Oracle("kinds-points", stored("kinds-points"), 64, (24, 24), 16, "c6ab30519f7156d2"),
    Oracle("face-proposals", published("face-proposals"), 40, (64, 48), 8, "620eff359f4e20a7", "NHWC"),
    Oracle("face-refinement", published("face-refinement"), 64, (24, 24), 16, "1f894c64ba718f65", "NHWC"),
    Oracle("face-landmarks", published("face-landmarks"), 64, (48, 48), 16, "496dc716347fb128", "NHWC"),
    # MobileNets with hard-swish and squeeze-excite.
    Oracle("text-classifier", published("classifier"), 48, (48, 192), 8, "88ab7319430fcef1"),
    Oracle("text-detector", published("detector"), 16, (160, 160), 4, "3e8316feb56c67d8", rounded=DETECTORS_MAP),
    Oracle("thin-resnet50", save_thin_resnet50, 48, (224, 224), 8, "3feb0506b1928a5e"),
    Oracle("thin-resnet50-nhwc", save_thin_resnet50_nhwc, 32, (224, 224), 8, "8617f07c08d75e04", "NHWC"),
    Oracle("efficientnet-lite0", lambda _folder: assets() / "efficientnet-lite0.onnx", 64, (224, 224), 8, "031a124976fbf535"),
)
