"""The step build: a Q/DQ model, or the FP32 model, becomes a plan."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.engines.backend import BuildRequest, get_backend
from app.quant.graph import prepare_model
from app.quant.qdq import model_to_bytes
from app.quant.weight_sizes import count_weight_bytes
from app.spec import EngineSpec, FloatType


def build(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the plan to `out`; return the engine's metadata, and as `weights` the bytes of what it was built from.

    request: {"model": path, "engine": EngineSpec, "float_type": "fp32" | "fp16", "out": path}; the model has Q/DQ pairs
    where the precision is int8. Raises EngineProblem, UnsupportedOption.
    """
    engine = EngineSpec.model_validate(request["engine"])
    assert engine.backend is not None
    model = Path(request["model"])
    if engine.precision != "int8":
        model = _prepared(model, Path(request["out"] + ".onnx"))
    metadata = get_backend(engine.backend).build(_build_request(engine, model, request), report).metadata
    return metadata | {"weights": count_weight_bytes(onnx.load(request["model"], load_external_data=False))}


def _build_request(engine: EngineSpec, model: Path, request: dict[str, Any]) -> BuildRequest:
    float_type: FloatType = request["float_type"]
    return BuildRequest(
        model=model,
        plan=Path(request["out"]),
        precision=engine.precision,
        float_type=float_type,
        shapes=engine.shapes or {},
        compute_capability=engine.compute_capability or (),
        optimization_level=engine.optimization_level,
        workspace_bytes=engine.workspace_bytes,
        threads=len(os.sched_getaffinity(0)),
    )


def _prepared(model: Path, out: Path) -> Path:
    out.write_bytes(model_to_bytes(prepare_model(onnx.load(model))))
    return out
