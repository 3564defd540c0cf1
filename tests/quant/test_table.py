"""Tables: only good scales go out, and JSON keeps every bit."""

import json

import numpy as np
import pytest

from app.errors import Problem, TableProblem, TableScaleInvalid, UnsupportedOption
from app.quant.histogram import mergeable_from_values
from app.quant.observation import Observation
from app.quant.table import (
    Table,
    compute_drift,
    scales_from_table,
    table_from_json,
    table_from_observation,
    table_from_scales,
    table_to_json,
    with_extremes,
)


def observation():
    rng = np.random.default_rng(0)
    draws = {"b": rng.normal(size=1000), "a": rng.normal(size=1000) * 3, "dead": np.zeros(10)}
    return Observation("mergeable", 4, {n: mergeable_from_values(x.astype(np.float32)) for n, x in draws.items()})


@pytest.mark.parametrize("method", ["entropy", "minmax", "percentile", "mse"])
def test_one_observation_gives_every_method(method):
    table = table_from_observation(observation(), method)
    assert (list(table.amax), table.dead, table.method) == (["a", "b"], ("dead",), method)
    values = observation().histograms
    assert table.extremes == {n: (values[n].minimum, values[n].maximum) for n in "ab"}
    scales = scales_from_table(table)
    assert all(scale.dtype == np.float32 and scale == np.float32(table.amax[n] / 127) for n, scale in scales.items())


def test_extremes_that_were_measured_elsewhere_are_stretched_to_the_tables_own_reach():
    table = Table({"known": 1.0, "further": 8.0, "clipped": 1.0, "flat": 1.0, "unseen": 1.0}, extremes={"known": (0.0, 1.0)})
    seen = {"known": (-5.0, 5.0), "further": (-1.0, 4.0), "clipped": (-0.5, 3.0), "flat": (0.0, 0.0), "foreign": (0.0, 1.0)}
    found = with_extremes(table, Table(dict.fromkeys(seen, 1.0), extremes=seen))
    assert found.extremes == {"known": (0.0, 1.0), "further": (-2.0, 8.0), "clipped": (-0.5, 3.0), "flat": (0.0, 0.0)}
    assert found.amax == table.amax
    assert table_from_json(table_to_json(found)) == found


def test_unknown_method():
    with pytest.raises(UnsupportedOption):
        table_from_observation(observation(), "native-minmax")


def test_json_round_trip_keeps_every_bit():
    table = Table({"x": 0.1 + 0.2, "y:z é": 1e-30}, ("dead",), "mse", extremes={"x": (-0.1 - 0.2, 1e-40)})
    text = json.dumps(table_to_json(table))
    assert table_from_json(text) == table
    assert table_from_json(text.encode()) == table
    assert table_from_json(json.loads(text)) == table


@pytest.mark.parametrize("amax", [0, -1.0, float("nan"), float("inf"), 1e-45, 1e300, 10**400, True, "1", None])
def test_bad_amax_is_refused_by_name(amax):
    with pytest.raises(TableScaleInvalid, match="conv1"):
        table_from_json({"format": "enginesmith-table-1", "amax": {"conv1": amax}})


@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        "{",
        "[]",
        "[" * 100_000,
        {},
        {"format": "enginesmith-table-1"},
        {"format": "enginesmith-table-1", "amax": {}, "origin": "computed"},
        {"format": "enginesmith-table-1", "amax": {"x": 1.0}, "dead": ["x"]},
        {"format": "enginesmith-table-1", "amax": {}, "dead": [1]},
        {"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": {"y": [0, 1]}},
        {"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": {"x": [1, 0]}},
        {"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": {"x": [0]}},
        {"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": {"x": [0, "1"]}},
        {"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": [0, 1]},
        '{"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": {"x": [0, Infinity]}}',
        '{"format": "enginesmith-table-1", "amax": {"x": 1.0}, "extremes": {"x": [NaN, 1]}}',
        '{"format": "enginesmith-table-1", "amax": {"x": 1, "x": 2}}',
    ],
)
def test_bad_json_is_refused(value):
    with pytest.raises(TableProblem):
        table_from_json(value)


@pytest.mark.parametrize("amax", [0.0, -1.0, float("nan"), float("inf"), 1e-44])
def test_bad_scales_never_leave(amax):
    with pytest.raises(TableScaleInvalid):
        scales_from_table(Table({"x": amax}))


def test_imported_scales_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    scales = {str(i): np.float32(x) for i, x in enumerate(np.exp(rng.normal(size=500) * 6))}
    assert scales_from_table(table_from_scales(scales)) == scales
    with pytest.raises(Problem):
        table_from_scales({"x": 0.0})


def test_drift():
    drift = compute_drift(Table({"a": 2.0, "b": 1.0}), Table({"a": 2.5, "c": 1.0}))
    assert drift == {"a": 0.25, "b": float("inf"), "c": float("inf")}


@pytest.mark.parametrize("method", ["", "a" * 41, "two\nlines", "\ud800", 7])
def test_methods_that_no_row_holds_are_refused(method: object) -> None:
    with pytest.raises(TableProblem, match="method is 1 to 40"):
        table_from_json(json.dumps({"format": "enginesmith-table-1", "amax": {"x": 1.0}, "method": method}).encode())
