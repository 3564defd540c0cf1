"""TensorRT's own calibrators: its published caches come out again, and what fails inside them fails the calibration."""

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from app.engines.native import NativeCalibration, calibrate_natively
from app.errors import ImageCorrupt
from app.quant.trt_cache import parse_trt_cache
from tests.gpu.digits import MODEL, ORACLE, calibration_batches
from tests.gpu.test_engines import needs_calibrator

pytestmark = needs_calibrator


def calibrate(method: str, batches: Iterator[np.ndarray]) -> tuple[bytes, dict]:
    return calibrate_natively(NativeCalibration(MODEL, method, "input", (50, 1, 28, 28)), batches, lambda _: None)


def bits(scale: np.float32) -> int:
    return struct.unpack("<i", struct.pack("<f", float(scale)))[0]


@pytest.mark.parametrize(("method", "oracle"), [("native-entropy", "entropy2"), ("native-minmax", "minmax")])
def test_the_oracle_is_reproduced(method: str, oracle: str) -> None:
    text, facts = calibrate(method, iter(calibration_batches()))
    assert (facts["batches"], facts["left_out"]) == (10, 0)
    found, known = parse_trt_cache(text), parse_trt_cache((ORACLE / f"mnist-{oracle}.cache").read_bytes())
    assert (found.algorithm, found.scales.keys()) == (known.algorithm, known.scales.keys())
    for name, scale in known.scales.items():
        assert float(found.scales[name]) == pytest.approx(float(scale), rel=2e-6), name


def test_what_get_batch_raises_fails_the_calibration() -> None:
    def batches() -> Iterator[np.ndarray]:
        yield from calibration_batches()[:2]
        raise ImageCorrupt(count=1, names=["7/broken.png (it ends early)"])

    with pytest.raises(ImageCorrupt, match=r"7/broken\.png"):
        calibrate("native-minmax", batches())


def test_images_that_fill_no_batch_are_counted() -> None:
    def batches() -> Iterator[np.ndarray]:
        yield calibration_batches()[0]
        yield calibration_batches()[1][:7]

    _, facts = calibrate("native-minmax", batches())
    assert (facts["batches"], facts["left_out"]) == (1, 7)
