"""Weights: their dimensions against their bytes, inside the ONNX file or beside it, and whether they are finite."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from app.errors import (
    ModelExternalDataInvalid,
    ModelExternalDataUnsafe,
    ModelInitializerInvalid,
    ModelNonfinite,
    ModelTooComplex,
)
from app.inputs.graph import GraphFacts
from app.inputs.limits import InputLimits
from app.inputs.model_files import get_location

T = TensorProto
#: Bits of one element in raw bytes; a STRING has none.
_BITS: dict[int, int] = {
    **dict.fromkeys((T.UINT8, T.INT8, T.BOOL), 8),
    **dict.fromkeys((T.FLOAT8E4M3FN, T.FLOAT8E4M3FNUZ, T.FLOAT8E5M2, T.FLOAT8E5M2FNUZ, T.FLOAT8E8M0), 8),
    **dict.fromkeys((T.UINT16, T.INT16, T.FLOAT16, T.BFLOAT16), 16),
    **dict.fromkeys((T.FLOAT, T.INT32, T.UINT32), 32),
    **dict.fromkeys((T.DOUBLE, T.INT64, T.UINT64, T.COMPLEX64), 64),
    T.COMPLEX128: 128,
    **dict.fromkeys((T.UINT4, T.INT4, T.FLOAT4E2M1), 4),
}
#: Where elements stand that are not raw, and how many entries make one; what is not listed is in int32_data.
_FIELDS: dict[int, tuple[str, int]] = {
    T.FLOAT: ("float_data", 1),
    T.COMPLEX64: ("float_data", 2),
    T.DOUBLE: ("double_data", 1),
    T.COMPLEX128: ("double_data", 2),
    T.INT64: ("int64_data", 1),
    T.UINT32: ("uint64_data", 1),
    T.UINT64: ("uint64_data", 1),
    T.STRING: ("string_data", 1),
}
_ALL_FIELDS = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")
_FLOATS: dict[int, str] = {T.FLOAT: "<f4", T.DOUBLE: "<f8", T.FLOAT16: "<f2"}
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
_NUMBER = re.compile(r"[0-9]{1,18}")
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class _Range:
    tensor: str
    start: int
    end: int


def check_initializers(facts: GraphFacts, data_files: dict[str, Path], limits: InputLimits) -> int:
    """Check all weights and return how many numbers they are.

    Raises ModelInitializerInvalid, ModelExternalDataInvalid, ModelExternalDataUnsafe and ModelNonfinite.
    """
    ranges: dict[str, list[_Range]] = defaultdict(list)
    nonfinite: list[str] = []
    for tensor in facts.constants:
        if tensor.data_location == T.EXTERNAL:
            raise ModelExternalDataInvalid(tensor=tensor.name, reason="it stands in a node's attribute")
        _check_inline(tensor, _count_elements(tensor, limits))
    for tensor in facts.initializers:
        count = _count_elements(tensor, limits)
        if tensor.data_location == T.EXTERNAL:
            location = get_location(tensor)
            span = _get_range(tensor, count, data_files[location].stat().st_size)
            ranges[location].append(span)
            values = _external_values(tensor, count, data_files[location], span)
        else:
            _check_inline(tensor, count)
            values = _inline_values(tensor)
        if values is not None and _is_nonfinite(values):
            nonfinite.append(tensor.name)
    if nonfinite:
        raise ModelNonfinite(count=len(nonfinite), tensor=nonfinite[0])
    for spans in ranges.values():
        _check_overlap(spans)
    return sum(math.prod(tensor.dims) for tensor in facts.initializers)


def _count_elements(tensor: TensorProto, limits: InputLimits) -> int:
    if len(tensor.dims) > limits.tensor_dimensions:
        raise ModelTooComplex(reason=f"initializer {tensor.name} has more than {limits.tensor_dimensions} dimensions")
    if any(dimension < 0 for dimension in tensor.dims):
        raise ModelInitializerInvalid(tensor=tensor.name, reason=f"its dimensions are {list(tensor.dims)}")
    if tensor.data_type != T.STRING and tensor.data_type not in _BITS:
        raise ModelInitializerInvalid(tensor=tensor.name, reason=f"its type {tensor.data_type} is not read")
    if tensor.HasField("segment"):
        raise ModelInitializerInvalid(tensor=tensor.name, reason="it is one of several segments")
    return math.prod(tensor.dims)


def _raw_bytes(tensor: TensorProto, count: int) -> int:
    return -(-count * _BITS[tensor.data_type] // 8)


def _check_inline(tensor: TensorProto, count: int) -> None:
    field, width = _FIELDS.get(tensor.data_type, ("int32_data", 1))
    filled = [name for name in _ALL_FIELDS if len(getattr(tensor, name))]
    if tensor.external_data:
        raise ModelInitializerInvalid(tensor=tensor.name, reason="it has both a location and data of its own")
    if tensor.HasField("raw_data") and tensor.data_type != T.STRING:
        held, needed = len(tensor.raw_data), _raw_bytes(tensor, count)
        filled_ok = not filled
    else:
        per_entry = 8 // _BITS[tensor.data_type] if _BITS.get(tensor.data_type, 8) < 8 else 1
        held, needed = len(getattr(tensor, field)), -(-count * width // per_entry)
        filled_ok = filled in ([], [field]) and not tensor.raw_data
    if not filled_ok:
        raise ModelInitializerInvalid(tensor=tensor.name, reason=f"its data is given twice or as {filled}")
    if held != needed:
        reason = f"its dimensions {list(tensor.dims)} need {needed} bytes or entries, it has {held}"
        raise ModelInitializerInvalid(tensor=tensor.name, reason=reason)


def _get_range(tensor: TensorProto, count: int, file_size: int) -> _Range:
    keys = [entry.key for entry in tensor.external_data]
    if len(set(keys)) != len(keys) or not set(keys) <= _EXTERNAL_KEYS:
        raise ModelExternalDataInvalid(tensor=tensor.name, reason=f"its keys are {keys}")
    if tensor.HasField("raw_data") or any(len(getattr(tensor, name)) for name in _ALL_FIELDS):
        raise ModelExternalDataInvalid(tensor=tensor.name, reason="it has data of its own too")
    if tensor.data_type == T.STRING:
        raise ModelExternalDataInvalid(tensor=tensor.name, reason="text cannot be stored outside")
    numbers = {entry.key: entry.value for entry in tensor.external_data if entry.key in ("offset", "length")}
    if not all(isinstance(number, str) and _NUMBER.fullmatch(number) for number in numbers.values()):
        raise ModelExternalDataInvalid(tensor=tensor.name, reason=f"offset or length is no number: {numbers}")
    start, needed = int(numbers.get("offset", 0)), _raw_bytes(tensor, count)
    length = int(numbers.get("length", needed))
    if length != needed:
        reason = f"its dimensions {list(tensor.dims)} need {needed} bytes, its length is {length}"
        raise ModelExternalDataInvalid(tensor=tensor.name, reason=reason)
    if start + length > file_size:
        reason = f"it ends at {start + length}, its file has {file_size} bytes"
        raise ModelExternalDataInvalid(tensor=tensor.name, reason=reason)
    return _Range(tensor.name, start, start + length)


def _check_overlap(spans: Iterable[_Range]) -> None:
    # Two tensors may share all of their bytes (tied weights), never a part of them.
    last: _Range | None = None
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if span.start == span.end:
            continue
        if last and span.start < last.end and (span.start, span.end) != (last.start, last.end):
            raise ModelExternalDataUnsafe(tensor=span.tensor, reason=f"its bytes overlap those of {last.tensor}")
        last = span


def _external_values(tensor: TensorProto, count: int, path: Path, span: _Range) -> NDArray[np.floating] | None:
    if tensor.data_type not in _FLOATS or not count:
        return None
    return np.memmap(path, _FLOATS[tensor.data_type], mode="r", offset=span.start, shape=(count,))


def _inline_values(tensor: TensorProto) -> NDArray[np.floating] | None:
    if tensor.data_type not in _FLOATS:
        return None
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, _FLOATS[tensor.data_type])
    if tensor.data_type == T.FLOAT16:
        return np.asarray(tensor.int32_data, np.uint16).view(np.float16)
    return np.asarray(tensor.float_data if tensor.data_type == T.FLOAT else tensor.double_data)


def _is_nonfinite(values: NDArray[np.floating]) -> bool:
    # A single infinity is no weight: it is the bound of a Clip, or what a mask fills in.
    if values.size == 1:
        return bool(np.isnan(values[0]))
    blocks = range(0, values.size, _BLOCK_ELEMENTS)
    return not all(np.isfinite(values[start : start + _BLOCK_ELEMENTS]).all() for start in blocks)
