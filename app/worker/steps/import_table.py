"""The step import_table: a foreign table is parsed, matched with the tensors of a model, and filled up where asked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.quant.coverage import Coverage, match_names
from app.quant.foreign import ForeignTable, parse_foreign
from app.quant.neighbours import Filled, fill_from_neighbours
from app.quant.table import Table, scales_from_table, table_to_json
from app.worker.steps.quantize import read_table


def import_table(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the table's JSON to `out`; return what of it the model knows, and where each added amax came from.

    request: {"model": path, "cache": path, "out": path, "fill": "refuse" or "neighbours" or "minmax-from-dataset",
    "computed": path of a table of that model and dataset, or None}. Returns {"format", "header", "method", "tensors", "dead",
    "needed", "covered", "kept": amax of the known names that are no tensors of the model, "listed": all names in the
    file's order, but the unknown, "counts" and "details": names as matched, mapped, constants, internal, unknown,
    missing, filled}. Raises TableProblem, TableScaleInvalid.
    """
    foreign = parse_foreign(Path(request["cache"]).read_bytes())
    scales_from_table(foreign.table)
    model = onnx.load(request["model"])
    coverage = match_names(model, foreign.table.amax)
    coverage.filled = _fill(request, model, coverage)
    table = _table_from_coverage(foreign, coverage)
    Path(request["out"]).write_text(json.dumps(table_to_json(table), sort_keys=True), encoding="utf-8")
    return {
        "format": foreign.format,
        "header": foreign.header,
        "method": table.method,
        "tensors": len(table.amax),
        "dead": list(table.dead),
        "needed": len(coverage.needed),
        "covered": coverage.covered,
        "kept": coverage.kept,
        "listed": [name for name in foreign.table.amax if name in coverage.amax or name in coverage.kept],
        "counts": coverage.counts(),
        "details": coverage.to_json(),
    }


def _fill(request: dict[str, Any], model: onnx.ModelProto, coverage: Coverage) -> dict[str, Filled]:
    if request["fill"] == "neighbours":
        return fill_from_neighbours(model, coverage.amax, coverage.missing)
    if request["computed"] is None:
        return {}
    computed = read_table(request["computed"]).amax
    return {name: Filled(computed[name], "minmax", (), ()) for name in coverage.missing if name in computed}


def _table_from_coverage(foreign: ForeignTable, coverage: Coverage) -> Table:
    amax = coverage.amax | {name: filled.amax for name, filled in coverage.filled.items()}
    dead = tuple(name for name in foreign.table.dead if name in coverage.needed and name not in amax)
    return Table(amax, dead, foreign.table.method)
