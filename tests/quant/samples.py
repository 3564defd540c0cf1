"""The digits CNN, its test images, TensorRT's tables for it, and EfficientNet-Lite0 where ENGINESMITH_ASSETS has it."""

import io
import os
import struct
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

_ROOT = Path(__file__).parents[2]
_DIGITS = _ROOT / "app" / "client" / "digits"
_ORACLE = _ROOT / "tests" / "oracle"


def digits_model() -> onnx.ModelProto:
    """Return the FP32 digits CNN."""
    return onnx.load(_DIGITS / "mnist-cnn.onnx")


@cache
def digits_images() -> tuple[np.ndarray, list[int]]:
    """Return the 1500 test digits as float32[1500, 1, 28, 28] in 0..1, and their classes."""
    with zipfile.ZipFile(_DIGITS / "mnist-test-1500.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name))), np.float32) / 255 for name in names]
    return np.stack(pictures)[:, None], [int(name.split("/")[0]) for name in names]


def parse_oracle(method: str) -> dict[str, np.float32]:
    """Return the scales that TensorRT 10.6 wrote for the digits CNN."""
    lines = (_ORACLE / f"mnist-{method}.cache").read_text().splitlines()[1:]
    pairs = [line.rsplit(": ", 1) for line in lines]
    return {name: np.float32(struct.unpack(">f", bytes.fromhex(scale))[0]) for name, scale in pairs}


def assets() -> Path:
    """Return the folder of large models and photos, or skip the test by name."""
    folder = os.environ.get("ENGINESMITH_ASSETS")
    if not folder:
        pytest.skip("ENGINESMITH_ASSETS names no folder with efficientnet-lite0.onnx and photos-256.zip")
    return Path(folder)


def efficientnet_model() -> onnx.ModelProto:
    """Return EfficientNet-Lite0, or skip the test."""
    return onnx.load(assets() / "efficientnet-lite0.onnx")


def photos(first: int, count: int) -> np.ndarray:
    """Return photos as float32[count, 3, 224, 224] in -1..1, or skip the test."""
    with zipfile.ZipFile(assets() / "photos-256.zip") as archive:
        names = sorted(archive.namelist())[first : first + count]
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((224, 224)) for name in names]
    return np.stack([(np.asarray(p, np.float32) - 127) / 128 for p in pictures]).transpose(0, 3, 1, 2).copy()
