"""A table of any origin: what the bytes are is read from the bytes, and its scales and names are checked."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import TableProblem, TableScaleInvalid
from app.quant.foreign_json import (
    amax_from_onnxruntime,
    is_modelopt_json,
    is_onnxruntime_json,
    scales_from_modelopt,
)
from app.quant.ort_cache import is_ort_cache, parse_ort_cache
from app.quant.ort_table import parse_ort_table
from app.quant.table import Table, check_scale, parse_json, table_from_json, table_from_scales
from app.quant.trt_cache import parse_trt_cache

#: ONNX Runtime's JSON holds the histograms, too.
MAX_TABLE_BYTES = 64 << 20
#: Many times what the largest networks have tensors.
MAX_ENTRIES = 100_000
_LONGEST_NAME = 4096
_SNIFFED = 64
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class ForeignTable:
    """A table that was read: `format` is trt, json, onnxruntime or modelopt; `header` the first line of a TRT cache.

    `zeros`: names that are listed with a range of zero, which is none: see `trt_cache.ParsedCache`.
    """

    table: Table
    format: str
    header: str | None = None
    zeros: tuple[str, ...] = ()


def parse_foreign(content: bytes) -> ForeignTable:
    """Read TRT cache text, a table's JSON, ONNX Runtime's calibration.json, .flatbuffers or .cache, or ModelOpt's scales.

    Raises TableProblem (naming line or name) and TableScaleInvalid (naming the tensor). For untrusted bytes: in a child.
    """
    if len(content) > MAX_TABLE_BYTES:
        raise TableProblem(reason=f"a table has at most {MAX_TABLE_BYTES} bytes, this one has {len(content)}")
    content = content.removeprefix(codecs.BOM_UTF8)  # editors on Windows put it in front
    if content.lstrip()[:1] == b"{":
        read = _read_json(content)
    elif is_flatbuffer(content):
        read = _from_amax(_parsed_numbers(parse_ort_table(content)), "onnxruntime")
    elif is_ort_cache(content):
        read = _from_amax(_parsed_numbers(parse_ort_cache(content)), "onnxruntime")
    else:
        cache = parse_trt_cache(content)
        table = Table(table_from_scales(cache.scales).amax, (), cache.algorithm)
        read = ForeignTable(table, "trt", f"TRT-{cache.version}-{cache.algorithm}", cache.zeros)
    listed = [*read.table.amax, *read.zeros]
    if not 0 < len(listed) <= MAX_ENTRIES:
        raise TableProblem(reason=f"it lists {len(listed)} tensors; a table has 1 to {MAX_ENTRIES}")
    for name in listed:
        _check_name(name)
    return read


def is_flatbuffer(content: bytes) -> bool:
    """Return whether the bytes are binary, as ONNX Runtime's calibration.flatbuffers is."""
    return b"\x00" in content[:_SNIFFED] and not content.startswith((b"TRT-", *_UTF16_MARKS))


def _read_json(content: bytes) -> ForeignTable:
    fields = parse_json(content)
    if not isinstance(fields, dict) or "format" in fields:
        return ForeignTable(table_from_json(fields), "json")
    if is_onnxruntime_json(fields):
        return _from_amax(amax_from_onnxruntime(fields), "onnxruntime")
    if is_modelopt_json(fields):
        scales = scales_from_modelopt(fields)
        live = {name: scale for name, scale in scales.items() if scale != 0}
        return ForeignTable(table_from_scales(live), "modelopt", zeros=_without(scales, live))
    raise TableProblem(reason=_unknown_json(fields))


def _unknown_json(fields: Mapping[str, Any]) -> str:
    known = "a table of Enginesmith has a field format, ONNX Runtime's JSON lowest and highest, ModelOpt's names end in _scale"
    first = f"its first field is {next(iter(fields))[:80]!a}" if fields else "it is empty"
    return f"its JSON is of no known kind ({known}); {first}"


def _from_amax(amax: Mapping[str, float], kind: str) -> ForeignTable:
    live = {name: value for name, value in amax.items() if value != 0}
    for name, value in live.items():
        check_scale(name, value / 127)
    return ForeignTable(Table(live), kind, zeros=_without(amax, live))


def _without(listed: Mapping[str, float], live: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(name for name in listed if name not in live)


def _parsed_numbers(texts: Mapping[str, str]) -> dict[str, float]:
    return {name: _number(name, text) for name, text in texts.items()}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TableScaleInvalid(tensor=name, value=text) from None


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable():
        raise TableProblem(reason=f"the name {name[:80]!a} is empty or holds control or invisible characters")
    if len(name) > _LONGEST_NAME:
        raise TableProblem(reason=f"the name {name[:80]}... is longer than {_LONGEST_NAME} characters")
