"""TensorRT's calibration cache: a header line `TRT-<version>-<algorithm>`, then `name: <8 hex digits>` a tensor."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.errors import ModelTensorNameUnsafe, TableProblem, UnsupportedOption
from app.quant.table import check_scale
from app.quant.table_lines import check_line, lines_from_text

#: What a cache that we write may be headed with: TensorRT's calibrators, those of old versions among them.
ALGORITHMS = ("EntropyCalibration", "EntropyCalibration2", "MinMaxCalibration", "LegacyCalibration", "QuantileCalibration")

_HEADER_IS = "TRT-<version>-<algorithm>, such as TRT-100600-EntropyCalibration2, nor `name value` as in ONNX Runtime's cache"
_LOST_LINES = "; were its line ends lost? curl needs --data-binary @FILE, not -d"
_HEADER = re.compile(r"TRT-([0-9]{1,9})-([A-Za-z0-9]{1,40})")
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})\.([0-9]{1,2})(?:\.[0-9]{1,9})?")
_HEX = re.compile(r"[0-9a-fA-F]{8}")
#: As TensorRT prints it, without leading zeros, and as tools write it that keep them.
_ZERO = ("0", "00000000")


@dataclass(frozen=True)
class ParsedCache:
    """A cache that was read: version as printed (`100600`), algorithm, and scale by tensor name in file order.

    `zeros`: names whose line says `0`. TensorRT writes that of a tensor that was zero on every image and of a bias of
    zeros, in its own caches, so such a line does not make a cache a bad one; but no scale that is used may be zero, so
    these names have none. Who needs one refuses it by name.
    """

    version: str
    algorithm: str
    scales: dict[str, np.float32]
    zeros: tuple[str, ...] = ()


def format_trt_cache(
    scales: Mapping[str, float | np.float32], version: str = "10.6.0", algorithm: str = "EntropyCalibration2"
) -> str:
    """Return the cache text of scales, in their order, for a TensorRT version such as 10.6.0 or as printed, 100600.

    Raises TableScaleInvalid for a scale that is not a finite number above zero, ModelTensorNameUnsafe for a name that
    would break the lines, UnsupportedOption for a version or algorithm that cannot stand in the header.
    """
    if algorithm not in ALGORITHMS:
        raise UnsupportedOption(option=f"algorithm {algorithm!r}", reason=f"it is one of {', '.join(ALGORITHMS)}")
    lines = [f"TRT-{format_trt_version(version)}-{algorithm}"]
    lines += [f"{_safe_name(name)}: {_hex_from_scale(name, scale)}" for name, scale in scales.items()]
    return "\n".join(lines) + "\n"


def format_trt_version(version: str) -> str:
    """Return a version as TensorRT prints it: 10.6.0 is 100600, 8.6.1 is 8601; digits alone stay as they are."""
    if re.fullmatch(r"[0-9]{3,9}", version):
        return version
    parts = _VERSION.fullmatch(version)
    if parts is None:
        raise UnsupportedOption(option=f"trt_version {version!r}", reason="write it like 10.6.0")
    major, minor, patch = (int(part) for part in parts.groups())
    # Up to 9 TensorRT's version number is major * 1000 + minor * 100 + patch, from 10 on every part has two digits.
    return str(major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch)


def parse_trt_cache(content: bytes) -> ParsedCache:
    """Read untrusted cache bytes; raises TableProblem naming the line, TableScaleInvalid naming the tensor."""
    lines = lines_from_text(content)
    header = _HEADER.fullmatch(lines[0])
    if header is None:
        has_more = lines[0].startswith("TRT-") and ":" in lines[0]
        raise TableProblem(reason=f"its first line is not {_HEADER_IS}{_LOST_LINES if has_more else ''}")
    scales: dict[str, np.float32 | None] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, scale = _parse_line(number, line)
        if name in scales:
            raise TableProblem(reason=f"line {number}: {name} is listed twice")
        scales[name] = scale
    live = {name: scale for name, scale in scales.items() if scale is not None}
    return ParsedCache(header[1], header[2], live, tuple(name for name in scales if name not in live))


def _parse_line(number: int, line: str) -> tuple[str, np.float32 | None]:
    check_line(number, line)
    name, colon, digits = line.rpartition(":")
    if not colon or not name.strip():
        raise TableProblem(reason=f"line {number} is not `name: <8 hex digits>`")
    if digits.removeprefix(" ") in _ZERO:
        return name, None
    if not _HEX.fullmatch(digits.removeprefix(" ")):
        raise TableProblem(reason=f"line {number}: the scale of {name} is not exactly 8 hex digits")
    scale = struct.unpack(">f", bytes.fromhex(digits.strip()))[0]
    check_scale(name, scale)
    return name, np.float32(scale)


def _hex_from_scale(name: str, scale: float | np.float32) -> str:
    check_scale(name, float(scale))
    return struct.pack(">f", float(scale)).hex()


def _safe_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ModelTensorNameUnsafe(reason=f"{name!r} cannot stand in a line of a cache")
    return name
