"""The step migrate: say what a Q/DQ model keeps of the calibration cache that its table came from."""

from collections.abc import Callable
from typing import Any

import onnx

from app.quant.float16_names import restore_names
from app.quant.migration import Cache, report_migration
from app.worker.steps.quantize import read_table


def migrate(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return `migration.report_migration` of a Q/DQ model.

    request: {"qdq": path, "table": path, "filled": names that the cache itself did not have, "kept_float": [{node,
    reason}], "channels": [{node, weight}] of the quantizer's report}.
    """
    filled = set(request["filled"])
    amax = {name: value for name, value in read_table(request["table"]).amax.items() if name not in filled}
    kept = {row["node"]: row["reason"] for row in request["kept_float"]}
    model = onnx.load(request["qdq"])
    restore_names(model.graph, amax)
    given = {row["node"]: row["weight"] for row in request["channels"]}
    found = report_migration(model, Cache(amax, kept))
    for row in found["weights"]:
        row["weight"] = given.get(row["node"], row["weight"])
    return found
