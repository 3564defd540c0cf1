"""The step derive: histograms become tables; no image is looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.quant.observation import observation_from_bytes
from app.quant.table import table_from_observation, table_to_text
from app.spec import JobSpec


def derive(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write a table's JSON to `out`/METHOD for each method; return {"methods", "tensors", "dead"}.

    request: {"observation": path, "methods": [...], "spec": JobSpec, "out": folder}.
    """
    spec = JobSpec.model_validate(request["spec"])
    assert spec.calibration is not None
    observation = observation_from_bytes(Path(request["observation"]).read_bytes())
    tables = {name: table_from_observation(observation, name, spec.calibration.percentile) for name in request["methods"]}
    for name, table in tables.items():
        (Path(request["out"]) / name).write_text(table_to_text(table), encoding="utf-8")
    table = tables[request["methods"][0]]
    return {"methods": request["methods"], "tensors": len(table.amax), "dead": list(table.dead)}
