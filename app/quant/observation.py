"""An observation: the histograms of one model on one dataset, its bytes, and exact merging."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from app.errors import CalibrationProblem
from app.quant.histogram import (
    MAX_EXPONENT,
    MIN_EXPONENT,
    SEARCH_BINS,
    SIDE_BINS,
    Counts,
    Histogram,
    MergeableHistogram,
    Side,
    TensorrtHistogram,
    empty_side,
    merge_mergeable,
)

Grid: TypeAlias = Literal["mergeable", "tensorrt"]

_MAGIC = b"enginesmith-observation-1\n"
_MISSING = np.full(SIDE_BINS + 1, -1, np.int64)
#: The narrowest unsigned type that holds the counts of a row is written.
_COUNT_TYPES = ("<u1", "<u2", "<u4", "<u8")


@dataclass(frozen=True, eq=False)
class Observation:
    """Histograms by tensor name, all on one grid, and how many images they have seen."""

    grid: Grid
    images: int
    histograms: Mapping[str, Histogram]


def merge_observations(a: Observation, b: Observation) -> Observation:
    """Return the observation of the images of both, byte for byte that of one pass over all of them in any order.

    Raises CalibrationProblem for the tensorrt grid, whose bins depend on the first batch, and for unlike tensors.
    """
    if a.grid != "mergeable" or b.grid != "mergeable":
        raise CalibrationProblem(reason="observations of grid tensorrt cannot be merged; use calibration.grid mergeable")
    if a.histograms.keys() != b.histograms.keys():
        raise CalibrationProblem(reason="the observations are of different tensors")
    return Observation(
        "mergeable",
        a.images + b.images,
        {name: _merge(a.histograms[name], b.histograms[name]) for name in a.histograms},
    )


def _merge(a: Histogram, b: Histogram) -> Histogram:
    if not (isinstance(a, MergeableHistogram) and isinstance(b, MergeableHistogram)):
        raise CalibrationProblem(reason="a histogram of grid tensorrt cannot be merged")
    return merge_mergeable(a, b)


def observation_to_bytes(observation: Observation) -> bytes:
    """Return the bytes of observation: a JSON header, then the counts. Equal observations give equal bytes."""
    names = sorted(observation.histograms)
    rows = [row for name in names for row in _rows(observation.histograms[name])]
    kinds = [_narrowest(row) for row in rows]
    header = {
        "grid": observation.grid,
        "images": observation.images,
        "rows": [[row.size, kind] for row, kind in zip(rows, kinds, strict=True)],
        "tensors": [{"name": name, **_facts(observation.histograms[name])} for name in names],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    body = (row.astype(kind).data for row, kind in zip(rows, kinds, strict=True))
    return b"".join((_MAGIC, len(text).to_bytes(8, "little"), text, *body))


def _rows(histogram: Histogram) -> list[Counts]:
    if isinstance(histogram, TensorrtHistogram):
        return [_trimmed(histogram.counts)]
    return [
        side.counts[:0] if side is empty_side() else _trimmed(side.counts) for side in (histogram.positive, histogram.negative)
    ]


def _trimmed(row: Counts) -> Counts:
    # np.trim_zeros takes ten times as long.
    is_used = row[::-1] != 0
    place = int(is_used.argmax())
    return row[: row.size - place] if is_used[place] else row[:0]


def _facts(histogram: Histogram) -> dict[str, Any]:
    bounds = [histogram.minimum, histogram.maximum] if histogram.count else None
    facts: dict[str, Any] = {"bounds": bounds, "count": histogram.count}
    if isinstance(histogram, TensorrtHistogram):
        return facts | {"width": histogram.width}
    return facts | {"exponents": [histogram.positive.exponent, histogram.negative.exponent]}


def _narrowest(row: Counts) -> str:
    bits = int(row.max(initial=0)).bit_length()
    return _COUNT_TYPES[(bits > 8) + (bits > 16) + (bits > 32)]


def observation_from_bytes(content: bytes) -> Observation:
    """Return the observation of stored bytes; raises CalibrationProblem where they are not whole and consistent."""
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CalibrationProblem(reason=f"the stored observation is damaged ({error})") from None


def _parse(content: bytes) -> Observation:
    start = len(_MAGIC) + 8
    _require(content.startswith(_MAGIC), "unknown format")
    end = start + int.from_bytes(content[len(_MAGIC) : start], "little")
    _require(end <= len(content), "truncated header")
    header = json.loads(content[start:end])
    rows = _parse_rows(content, end, header["rows"])
    _require(header["grid"] in ("mergeable", "tensorrt") and _is_count(header["images"]), "bad header")
    parse = _parse_mergeable if header["grid"] == "mergeable" else _parse_tensorrt
    histograms = {facts["name"]: parse(facts, rows) for facts in header["tensors"]}
    _require(len(histograms) == len(header["tensors"]) and next(rows, None) is None, "tensors and counts differ")
    return Observation(header["grid"], header["images"], histograms)


def _parse_rows(content: bytes, offset: int, shapes: list[list[Any]]) -> Iterator[Counts]:
    rows: list[Counts] = []
    for size, kind in shapes:
        _require(_is_count(size) and size <= SIDE_BINS and kind in _COUNT_TYPES, "bad counts")
        stop = offset + size * np.dtype(kind).itemsize
        _require(stop <= len(content), "truncated counts")
        rows.append(np.frombuffer(content, kind, size, offset))
        offset = stop
    _require(offset == len(content), "bytes after the end")
    return iter(rows)


def _parse_mergeable(facts: dict[str, Any], rows: Iterator[Counts]) -> MergeableHistogram:
    count, minimum, maximum = _parse_facts(facts)
    sides = [_parse_side(exponent, next(rows, _MISSING)) for exponent in facts["exponents"]]
    _require(all(MIN_EXPONENT <= side.exponent <= MAX_EXPONENT for side in sides), "bad exponent")
    _require(len(sides) == 2 and sum(int(side.counts.sum()) for side in sides) == count, "counts do not add up")
    return MergeableHistogram(count, minimum, maximum, *sides)


def _parse_side(exponent: int, row: Counts) -> Side:
    return empty_side() if exponent == MIN_EXPONENT and not row.size else Side(exponent, _padded(row, SIDE_BINS))


def _parse_tensorrt(facts: dict[str, Any], rows: Iterator[Counts]) -> TensorrtHistogram:
    count, minimum, maximum = _parse_facts(facts)
    width, counts = float(facts["width"]), _padded(next(rows, _MISSING), SEARCH_BINS)
    _require(math.isfinite(width) and width >= 0 and int(counts.sum()) == count, "counts do not add up")
    return TensorrtHistogram(count, minimum, maximum, width, counts)


def _parse_facts(facts: dict[str, Any]) -> tuple[int, float, float]:
    count, bounds = facts["count"], facts["bounds"]
    _require(_is_count(count) and isinstance(facts["name"], str) and (bounds is None) == (count == 0), "bad facts")
    minimum, maximum = (math.inf, -math.inf) if bounds is None else (float(bound) for bound in bounds)
    _require(count == 0 or (math.isfinite(minimum) and minimum <= maximum < math.inf), "bad bounds")
    return count, minimum, maximum


def _padded(row: Counts, bins: int) -> Counts:
    _require(row.size <= bins, "bad counts")
    padded = np.zeros(bins, np.int64)
    padded[: row.size] = row
    _require(row.itemsize < 8 or (padded >= 0).all(), "bad counts")
    return padded


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(holds: object, reason: str) -> None:
    if not holds:
        raise ValueError(reason)
