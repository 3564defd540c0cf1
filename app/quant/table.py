"""A table: the amax of every tensor of one calibration, and what goes out of it: scales, all finite and above zero."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from app.errors import TableProblem, TableScaleInvalid
from app.quant.observation import Observation
from app.quant.thresholds import compute_amax, is_dead, parse_method

#: What is less is denormal or zero in float32, what is above the other is poison, as HAZARDS says; either is refused.
MIN_SCALE = float(np.finfo(np.float32).tiny) * (1 - 2.0**-24)
MAX_SCALE = 2.0**40
_LARGEST_AMAX = 2.0**60
_METHOD = re.compile(r"[A-Za-z0-9-]{1,40}")


#: Least and greatest value that was observed of a tensor, by its name.
Extremes = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Table:
    """amax by tensor name (float64, > 0), and the tensors that were zero on every image: those have no scale.

    `extremes`: of those with an amax, as far as they were observed; a table from elsewhere has none.
    `equalizer`: what equalized the weights of the model that was observed, where a table on its way out or in says it.
    """

    amax: dict[str, float]
    dead: tuple[str, ...] = ()
    method: str = "imported"
    equalizer: str | None = None
    extremes: Extremes = field(default_factory=dict)


def table_from_observation(observation: Observation, method: str, percentile: float = 99.99) -> Table:
    """Return the table of one method: entropy, minmax, percentile (in (0, 100]) or mse. No forward pass is needed."""
    chosen = parse_method(method)
    dead = tuple(sorted(name for name, histogram in observation.histograms.items() if is_dead(histogram)))
    live = sorted(observation.histograms.keys() - set(dead))
    amax = {name: compute_amax(observation.histograms[name], chosen, percentile) for name in live}
    extremes = {name: (observation.histograms[name].minimum, observation.histograms[name].maximum) for name in live}
    return Table(amax, dead, method, extremes=extremes)


def scales_from_table(table: Table) -> dict[str, np.float32]:
    """Return scale = float32(amax / 127) by tensor name; raises TableScaleInvalid rather than let a bad one out."""
    return {name: scale_from_amax(name, amax) for name, amax in table.amax.items()}


def scale_from_amax(tensor: str, amax: float) -> np.float32:
    """Return float32(amax / 127), finite and above zero."""
    check_scale(tensor, amax / 127)
    return np.float32(amax / 127)


def check_scale(tensor: str, scale: float) -> None:
    """Raise TableScaleInvalid unless scale is a finite number above zero that float32 holds."""
    if not (math.isfinite(scale) and MIN_SCALE <= scale < MAX_SCALE):
        raise TableScaleInvalid(tensor=tensor, value=repr(float(scale)))


def table_from_scales(scales: Mapping[str, float | np.floating]) -> Table:
    """Return the table of imported scales: amax = 127 * scale, which gives the very same float32 scale back."""
    for name, scale in scales.items():
        check_scale(name, float(scale))
    return Table({name: 127 * float(scale) for name, scale in scales.items()})


def with_extremes(table: Table, measured: Table) -> Table:
    """Return the table with the extremes that were measured on other images, where it has none of its own.

    Where its amax says that its own images reached further, both ends are stretched alike, so that none of that is cut off.
    """
    seen = {name: _stretched(measured.extremes[name], amax) for name, amax in table.amax.items() if name in measured.extremes}
    return replace(table, extremes=seen | dict(table.extremes))


def _stretched(pair: tuple[float, float], amax: float) -> tuple[float, float]:
    reach = max(abs(pair[0]), abs(pair[1]))
    by = amax / reach if 0 < reach < amax else 1.0
    return pair[0] * by, pair[1] * by


def compute_drift(earlier: Table, later: Table) -> dict[str, float]:
    """Return |later / earlier - 1| by tensor name; infinite where only one of them has an amax."""
    names = sorted(earlier.amax.keys() | later.amax.keys())
    return {name: _relative_change(earlier.amax.get(name), later.amax.get(name)) for name in names}


def _relative_change(earlier: float | None, later: float | None) -> float:
    return abs(later / earlier - 1) if earlier and later else math.inf


def table_to_json(table: Table) -> dict[str, Any]:
    """Return the table as JSON values with sorted names; floats keep every bit. What is not known has no field."""
    told: dict[str, Any] = {} if table.equalizer is None else {"equalizer": table.equalizer}
    if table.extremes:
        told["extremes"] = {name: list(pair) for name, pair in sorted(table.extremes.items())}
    return told | {
        "amax": dict(sorted(table.amax.items())),
        "dead": sorted(table.dead),
        "format": "enginesmith-table-1",
        "method": table.method,
    }


def table_to_text(table: Table) -> str:
    """Return the table as JSON text, which is the same for the same table."""
    return json.dumps(table_to_json(table), sort_keys=True)


def table_from_json(value: object) -> Table:
    """Return the table of parsed JSON, or of its text or bytes; raises TableProblem, TableScaleInvalid by tensor."""
    fields = parse_json(value) if isinstance(value, (str, bytes)) else value
    if not isinstance(fields, dict) or fields.get("format") != "enginesmith-table-1":
        raise TableProblem(reason='it is no JSON object with "format": "enginesmith-table-1"')
    if unknown := fields.keys() - {"amax", "dead", "equalizer", "extremes", "format", "method"}:
        raise TableProblem(reason=f"unknown fields {sorted(unknown)}")
    amax, dead, method = fields.get("amax"), fields.get("dead", []), fields.get("method", "imported")
    equalizer = fields.get("equalizer")
    if equalizer is not None and not isinstance(equalizer, str):
        raise TableProblem(reason="equalizer is a string, or left out")
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise TableProblem(reason="method is 1 to 40 letters, digits and hyphens")
    if not isinstance(amax, dict):
        raise TableProblem(reason="amax is an object of numbers, method a string")
    if not isinstance(dead, list) or not all(isinstance(name, str) for name in dead) or amax.keys() & set(dead):
        raise TableProblem(reason="dead is a list of tensor names without an amax")
    checked = {name: _checked_amax(name, number) for name, number in amax.items()}
    extremes = _checked_extremes(fields.get("extremes", {}), checked)
    return Table(checked, tuple(dead), method, equalizer, extremes)


def _checked_extremes(value: object, amax: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    if not isinstance(value, dict):
        raise TableProblem(reason="extremes is an object of lists of two numbers, or left out")
    if unknown := sorted(value.keys() - amax.keys()):
        raise TableProblem(reason=f"extremes has {unknown[0]}, amax has not; take it out of both or of none")
    return {name: _checked_pair(name, pair) for name, pair in value.items()}


def _checked_pair(name: str, pair: object) -> tuple[float, float]:
    numbers = [number for number in pair if isinstance(number, (int, float))] if isinstance(pair, list) else []
    if len(numbers) != 2 or not -_LARGEST_AMAX <= numbers[0] <= numbers[1] <= _LARGEST_AMAX:
        raise TableProblem(reason=f"the extremes of {name} are no list of two finite numbers, the least first")
    return float(numbers[0]), float(numbers[1])


def parse_json(text: str | bytes) -> object:
    """Return the value of JSON text. Raises TableProblem where it is none, or a name stands in it twice."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise TableProblem(reason=f"it is no JSON ({error})") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise TableProblem(reason="a name stands in it twice")
    return fields


def _checked_amax(name: str, number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)) or abs(number) > _LARGEST_AMAX:
        raise TableScaleInvalid(tensor=name, value=repr(number)[:40])
    check_scale(name, number / 127)
    return float(number)
