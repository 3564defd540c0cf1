"""ONNX Runtime's own calibration table: `calibration.flatbuffers`, read by its TensorRT execution provider.

The schema is `table TrtTable { dict: [KeyValue]; } table KeyValue { key: string; value: string; }`, with amax as text.
"""

import struct
from collections.abc import Mapping

import flatbuffers
import numpy as np
from flatbuffers.table import Table as FlatTable

from app.errors import TableProblem

#: Offsets of the first and second field in a flatbuffer's vtable.
_FIRST, _SECOND = 4, 6
_LONGEST_VALUE = 64


def format_ort_table(scales: Mapping[str, np.float32]) -> bytes:
    """Return the flatbuffer of amax = 127 * scale by tensor name, sorted by name."""
    builder = flatbuffers.Builder(1024)
    entries = [_entry(builder, name, str(127 * float(scales[name]))) for name in sorted(scales)]
    builder.StartVector(4, len(entries), 4)
    for entry in reversed(entries):  # a flatbuffer grows downwards
        builder.PrependUOffsetTRelative(entry)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def parse_ort_table(content: bytes) -> dict[str, str]:
    """Return amax as text by tensor name, in the file's order. Raises TableProblem.

    The bytes are untrusted: every offset in them may lead anywhere, so this runs in a throw-away process, and no more
    text is read than the file has bytes.
    """
    try:
        return _parse(content)
    except (struct.error, IndexError, TypeError, ValueError, OverflowError) as error:
        raise TableProblem(reason="it is no calibration.flatbuffers of ONNX Runtime: cut off or damaged") from error


def _parse(content: bytes) -> dict[str, str]:
    root = FlatTable(content, _unsigned(content, 0))
    place = root.Offset(_FIRST)
    if not place:
        raise ValueError("the root has no entries")
    start, count = root.Vector(place), root.VectorLen(place)
    if start + 4 * count > len(content):
        raise IndexError("the entries end behind the file")
    amax: dict[str, str] = {}
    left = len(content)
    for number in range(count):
        name, value = _pair(content, root.Indirect(start + 4 * number), left)
        left -= len(name) + len(value)
        if name in amax:
            raise TableProblem(reason=f"{name!a} is listed twice")
        amax[name] = value
    return amax


def _pair(content: bytes, place: int, left: int) -> tuple[str, str]:
    entry = FlatTable(content, place)
    name, value = _text(content, entry, _FIRST, left), _text(content, entry, _SECOND, _LONGEST_VALUE)
    return name, value


def _text(content: bytes, entry: FlatTable, field: int, longest: int) -> str:
    place = entry.Offset(field)
    if not place:
        raise ValueError("an entry lacks its name or value")
    start = entry.Pos + place
    start += _unsigned(content, start)
    length = _unsigned(content, start)
    if length > longest or start + 4 + length > len(content):
        raise IndexError("a text ends behind the file")
    return content[start + 4 : start + 4 + length].decode("utf-8")


def _unsigned(content: bytes, place: int) -> int:
    if not 0 <= place <= len(content) - 4:
        raise IndexError("an offset leads out of the file")
    return struct.unpack_from("<I", content, place)[0]


def _entry(builder: flatbuffers.Builder, name: str, value: str) -> int:
    key, text = builder.CreateString(name), builder.CreateString(value)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, key, 0)
    builder.PrependUOffsetTRelativeSlot(1, text, 0)
    return builder.EndObject()
