"""What the benchmark of engines runs in a child: scales, Q/DQ models and plans, by the steps that a worker runs."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.errors import Problem, UnsupportedOption
from app.quant.graph import find_activations
from app.quant.native_cache import scales_from_native_cache
from app.quant.observation import observation_from_bytes
from app.quant.table import Table, table_from_observation, table_from_scales, table_to_json
from app.spec import Precision
from app.worker.steps.build import build as build_engine
from app.worker.steps.quantize import quantize

Report = Callable[[dict[str, Any]], None]

_IMPLICIT = "implicit"
_FLOAT: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


def find_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the model's only input that is no weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    (given,) = (value for value in model.graph.input if value.name not in weights)
    return given


def build(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Build an engine of each kind; return {"version": of the backend, "engines": {kind: facts, or {"failed": why}}}.

    request: {"model", "shape": of a batch, "backend", "kinds": implicit, placements, precisions, "optimization_level",
    "float_type": of what stays float, "cache": of the model, or "observation" of its images, "out": folder}. facts:
    {"plan": path, "plan_bytes", "layers", "build_seconds"}; TensorRT's timings of one build serve the next.
    """
    out = Path(request["out"])
    table = out / "table.json"
    table.write_text(json.dumps(table_to_json(_read_table(request))))
    engines: dict[str, dict[str, Any]] = {}
    version = None
    for kind in request["kinds"]:
        report({"say": f"building {kind}"})
        began = time.perf_counter()
        try:
            facts = _build_kind(kind, table, request, out / kind)
        except Problem as problem:
            engines[kind] = {"failed": problem.detail}
            continue
        version = facts["version"]
        took = {"build_seconds": round(time.perf_counter() - began, 3)}
        engines[kind] = {"plan": str(out / kind), "plan_bytes": facts["plan_bytes"], "layers": facts["layers"]} | took
    return {"version": version, "engines": engines}


def _read_table(request: dict[str, Any]) -> Table:
    if "observation" in request:
        return table_from_observation(observation_from_bytes(Path(request["observation"]).read_bytes()), "minmax")
    names = find_activations(onnx.load(request["model"], load_external_data=False))
    scales, _ = scales_from_native_cache(Path(request["cache"]).read_bytes(), names)
    return table_from_scales(scales)


def _build_kind(kind: str, table: Path, request: dict[str, Any], out: Path) -> dict[str, Any]:
    if kind == _IMPLICIT and request["backend"] != "tensorrt":
        raise UnsupportedOption(option=kind, reason="TensorRT alone quantizes by a calibration cache")
    is_placement = kind not in _FLOAT and kind != _IMPLICIT
    asked = {
        "model": _placed(kind, table, request, out) if is_placement else request["model"],
        "engine": _engine(kind, request),
        "float_type": request["float_type"],
        "table": str(table) if kind == _IMPLICIT else None,
        "native_cache": None, "kept": {}, "exclude": [],
        "timing_cache": str(out.parent / "timings") if request["backend"] == "tensorrt" else None,
        "out": str(out),
    }  # fmt: skip
    return build_engine(asked, lambda _: None)


def _placed(placement: str, table: Path, request: dict[str, Any], out: Path) -> str:
    path = f"{out}.qdq.onnx"
    spec = {"placement": placement, "float_type": request["float_type"]}
    quantize({"model": request["model"], "table": str(table), "quantize": spec, "out": path}, lambda _: None)
    return path


def _engine(kind: str, request: dict[str, Any]) -> dict[str, Any]:
    name, shape = find_input(onnx.load(request["model"], load_external_data=False)).name, list(request["shape"])
    return {
        "backend": request["backend"],
        "precision": _FLOAT.get(kind, "int8"),
        "quantization": _IMPLICIT if kind == _IMPLICIT else "explicit",
        "optimization_level": request["optimization_level"],
        "shapes": {name: {"min": shape, "opt": shape, "max": shape}},
    }
