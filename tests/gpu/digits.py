"""The digits CNN on a GPU: its calibration images, and engines of it."""

import io
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.engines.backend import BuildRequest, BuildResult, get_backend
from app.engines.tensorrt import TensorRtRunner
from app.quant.graph import prepare_model
from app.quant.qdq import model_to_bytes, quantize_model
from app.spec import Precision, QuantizeSpec, ShapeProfile
from tests.quant.samples import digits_images, digits_model, parse_oracle

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "app" / "client" / "digits"
MODEL = DIGITS / "mnist-cnn.onnx"
ORACLE = ROOT / "tests" / "oracle"
SHAPES = {"input": ShapeProfile(min=(1, 1, 28, 28), opt=(50, 1, 28, 28), max=(100, 1, 28, 28))}


@cache
def calibration_batches() -> tuple[np.ndarray, ...]:
    """Return the 500 calibration digits in batches of 50, in the order of the archive, as TensorRT's caches were made."""
    with zipfile.ZipFile(DIGITS / "mnist-calibration-500.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name))), np.float32) / 255 for name in names]
    images = np.stack(pictures)[:, None]
    return tuple(images[start : start + 50] for start in range(0, len(images), 50))


def build_digits(folder: Path, precision: Precision = "int8", **options: Any) -> tuple[BuildRequest, BuildResult, list[str]]:
    """Build the digits CNN at the quickest level; int8 is explicit with TensorRT's min-max scales unless a cache is given."""
    is_explicit = precision in ("int8", "fp8") and "cache" not in options
    chosen = {"float_type": options.get("float_type", "fp32"), "format": "fp8" if precision == "fp8" else "int8"}
    spec = QuantizeSpec.model_validate(chosen)
    model = quantize_model(digits_model(), parse_oracle("minmax"), spec).model if is_explicit else digits_model()
    path = folder / "model.onnx"
    path.write_bytes(model_to_bytes(model if is_explicit or "cache" in options else prepare_model(model)))
    request = BuildRequest(path, folder / "engine.plan", precision, **({"shapes": SHAPES, "optimization_level": 0} | options))
    log: list[str] = []
    result = get_backend("tensorrt").build(request, lambda event: log.append(event["log"]))
    return request, result, log


def accuracy(plan: Path) -> float:
    """Return the share of the 1500 test digits that the plan gets right."""
    pictures, labels = digits_images()
    runner = TensorRtRunner(plan.read_bytes(), lambda _: None)
    try:
        return float((runner.run(pictures)["output"].argmax(axis=1) == labels).mean())
    finally:
        runner.close()
