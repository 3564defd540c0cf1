"""ONNX Runtime's `calibration.cache`, the text beside its `calibration.flatbuffers`: `name value` a line, value = amax.

As in the flatbuffers, value is the larger end of the range rather than the larger magnitude. The file has no header; it is
told from a TRT cache without one by its numbers, which are written as Python writes a float: eight hex digits never look so.
"""

import re

from app.errors import TableProblem
from app.quant.table_lines import check_line, lines_from_text

_NUMBER = re.compile(r"-?(?:[0-9]{1,32}\.[0-9]{1,32}(?:e[+-][0-9]{1,4})?|[0-9]{1,32}e[+-][0-9]{1,4}|inf|nan)")


def is_ort_cache(content: bytes) -> bool:
    """Return whether the first line is a tensor's in such a cache."""
    line, _, _ = content.partition(b"\n")
    return _parse_line(line.removesuffix(b"\r").decode("utf-8", "replace")) is not None


def parse_ort_cache(content: bytes) -> dict[str, str]:
    """Return amax as text by tensor name, in the file's order. Raises TableProblem naming the line."""
    amax: dict[str, str] = {}
    for number, line in enumerate(lines_from_text(content), start=1):
        check_line(number, line)
        parsed = _parse_line(line)
        if parsed is None:
            raise TableProblem(reason=f"line {number} is not `name value`, such as `conv1 0.25`, as the first line is")
        name, value = parsed
        if name in amax:
            raise TableProblem(reason=f"line {number}: {name} is listed twice")
        amax[name] = value
    if not content.endswith(b"\n"):  # half a number is a number
        raise TableProblem(reason=f"line {len(amax)} does not end, so it may be cut off; if it is whole, end it")
    return amax


def _parse_line(line: str) -> tuple[str, str] | None:
    name, _, value = line.rpartition(" ")
    return (name, value) if name.strip() and _NUMBER.fullmatch(value) else None
