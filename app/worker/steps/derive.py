"""The step derive: histograms become tables; no image is looked at."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.quant.observation import Observation, observation_from_bytes
from app.quant.table import table_from_observation, table_to_text
from app.spec import JobSpec


def derive(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write a table's JSON to `out`/METHOD for each method; return {"methods", "tensors", "dead", "kept"}.

    request: {"observation": path, "inner": names of its tensors that are inside the model's nodes, "methods": [...], "spec":
    JobSpec, "out": folder}. What is inside is in no table; `kept` is {method: {name: amax}} of it.
    """
    spec = JobSpec.model_validate(request["spec"])
    assert spec.calibration is not None
    observation = observation_from_bytes(Path(request["observation"]).read_bytes())
    inner, percentile = set(request["inner"]), spec.calibration.percentile
    model, inside = (_only(observation, names) for names in (observation.histograms.keys() - inner, inner))
    tables = {name: table_from_observation(model, name, percentile) for name in request["methods"]}
    for name, table in tables.items():
        (Path(request["out"]) / name).write_text(table_to_text(table), encoding="utf-8")
    table = tables[request["methods"][0]]
    kept = {name: table_from_observation(inside, name, percentile).amax for name in request["methods"]}
    return {"methods": request["methods"], "tensors": len(table.amax), "dead": list(table.dead), "kept": kept}


def _only(observation: Observation, names: Collection[str]) -> Observation:
    return replace(observation, histograms={name: observation.histograms[name] for name in names})
