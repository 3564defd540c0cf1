"""Read what TensorRT's own calibrator wrote: it lists constants as well, and a tensor that was always zero as `0`."""

from collections.abc import Collection

import numpy as np

from app.quant.trt_cache import parse_trt_cache

_HEX_DIGITS = 8


def scales_from_native_cache(content: bytes, names: Collection[str]) -> tuple[dict[str, np.float32], list[str]]:
    """Return the scales of these tensors in the order of the cache, and those of them that were zero on every image.

    Lines of other tensors are not looked at: a bias of zeros has a scale that no activation may have. Raises
    TableProblem, TableScaleInvalid.
    """
    wanted = set(names)
    header, *lines = content.decode("utf-8").splitlines()
    kept = [(name, digits) for name, _, digits in (line.rpartition(": ") for line in lines) if name in wanted]
    dead = [name for name, digits in kept if not int(digits, 16)]
    live = [f"{name}: {digits.zfill(_HEX_DIGITS)}" for name, digits in kept if int(digits, 16)]
    return parse_trt_cache("\n".join([header, *live]).encode()).scales, dead


def algorithm_from_native_cache(content: bytes) -> str:
    """Return the calibration algorithm in the header: EntropyCalibration2 of `TRT-100600-EntropyCalibration2`."""
    return content.split(b"\n", 1)[0].decode("utf-8").strip().rpartition("-")[2]
