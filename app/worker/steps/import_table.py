"""The step import_table: a foreign table is parsed, matched with the tensors of a model, and filled up where asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.errors import TableScaleInvalid
from app.keys import check_equalizer
from app.quant.coverage import Coverage, match_names
from app.quant.foreign import ForeignTable, parse_foreign
from app.quant.neighbours import Filled, fill_from_neighbours
from app.quant.table import Table, scales_from_table, table_to_text, with_extremes
from app.worker.steps.quantize import read_table

_ZERO_IS = "0 (TensorRT writes that where all images gave zeros; fill=neighbours or fill=minmax-from-dataset may find a range)"


def import_table(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the table's JSON to `out`; return what of it the model knows, and where each added amax came from.

    request: {"model": path, "cache": path, "out": path, "fill": "refuse" or "neighbours" or "minmax-from-dataset",
    "computed": path of a table of that model and dataset, or None, "extremes": whether those are taken from it}. Returns
    {"format", "header", "method", "equalizer", "tensors", "extremes": of how many tensors they are known, "dead", "needed",
    "covered", "kept": amax of the known names that are no tensors of the model, "listed": all names in the file's order, but
    the unknown, "counts" and "details": names as matched, mapped, constants, internal, unknown, zero, missing, filled}.
    Raises TableProblem, TableScaleInvalid.
    """
    foreign = parse_foreign(Path(request["cache"]).read_bytes())
    check_equalizer(foreign.table.equalizer)
    scales_from_table(foreign.table)
    model = onnx.load(request["model"])
    coverage = match_names(model, foreign.table.amax, foreign.zeros)
    measured = read_table(request["computed"]) if request["computed"] else None
    filling = measured if request["fill"] == "minmax-from-dataset" else None
    coverage.dead = frozenset([*foreign.table.dead, *(filling.dead if filling else ())])
    coverage.filled = _fill(request["fill"], model, coverage, filling)
    if measured is not None or request["fill"] != "minmax-from-dataset":
        _check_zeros(coverage)
    table = _table_from_coverage(foreign, coverage)
    if request["extremes"] and measured is not None:
        table = with_extremes(table, measured)
    Path(request["out"]).write_text(table_to_text(table), encoding="utf-8")
    return {
        "format": foreign.format,
        "header": foreign.header,
        "method": table.method,
        "equalizer": foreign.table.equalizer,
        "tensors": len(table.amax),
        "extremes": len(table.extremes),
        "dead": list(table.dead),
        "needed": len(coverage.needed),
        "covered": coverage.covered,
        "kept": coverage.kept,
        "listed": [name for name in foreign.table.amax if name in coverage.amax or name in coverage.kept],
        "counts": coverage.counts(),
        "details": coverage.to_json(),
    }


def _fill(fill: str, model: onnx.ModelProto, coverage: Coverage, measured: Table | None) -> dict[str, Filled]:
    if fill == "neighbours":
        return fill_from_neighbours(model, coverage.amax, coverage.missing)
    known = measured.amax if measured else {}
    return {name: Filled(known[name], "minmax", (), ()) for name in coverage.missing if name in known}


def _table_from_coverage(foreign: ForeignTable, coverage: Coverage) -> Table:
    amax = coverage.amax | {name: filled.amax for name, filled in coverage.filled.items()}
    dead = tuple(name for name in coverage.needed if name in coverage.dead and name not in amax)
    extremes = {name: pair for name, pair in foreign.table.extremes.items() if name in coverage.amax}
    return Table(amax, dead, foreign.table.method, extremes=extremes)


def _check_zeros(coverage: Coverage) -> None:
    """Refuse zeros that a quantizer needs: TensorRT would take them and be wrong, and a table without them looks whole.

    A tensor that was zero on every image and is so in the measurement as well is dead: it stays float.
    """
    for name in coverage.missing:
        if name in coverage.zero:
            raise TableScaleInvalid(tensor=name, value=_ZERO_IS)
