"""The step build: a Q/DQ model, or the FP32 model and perhaps a table beside it, becomes a plan."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.engines.backend import BuildRequest, get_backend
from app.quant.graph import prepare_model
from app.quant.nodes import index_graph
from app.quant.qdq import model_to_bytes
from app.quant.selection import find_excluded
from app.quant.table import scale_from_amax
from app.quant.trt_cache import format_trt_cache
from app.quant.weight_sizes import count_weight_bytes
from app.spec import EngineSpec, FloatType
from app.worker.steps.export_cache import export_cache


def build(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the plan to `out`; return the engine's metadata, and as `weights` the bytes of what it was built from.

    request: {"model": path, "engine": EngineSpec, "float_type": "fp32" | "fp16", "out": path, "timing_cache": path or
    None}; for explicit INT8 the model has Q/DQ pairs, for implicit there are "table": path, "native_cache": path of the
    cache text that TensorRT wrote itself, or None, "kept": amax of what was listed or measured beside the activations,
    and "exclude": [node or tensor].
    Raises EngineProblem, UnsupportedOption, SpecProblem, GpuOom, GpuLost.
    """
    engine = EngineSpec.model_validate(request["engine"])
    assert engine.backend is not None
    metadata = get_backend(engine.backend).build(_build_request(engine, request), report).metadata
    return metadata | {"weights": count_weight_bytes(onnx.load(request["model"], load_external_data=False))}


def _build_request(engine: EngineSpec, request: dict[str, Any]) -> BuildRequest:
    float_type: FloatType = request["float_type"]
    cache = write_cache(request) if request["table"] else None
    model = Path(request["model"])
    return BuildRequest(
        # Implicit quantization knows tensors by the names that the model came with, so it is built as it came.
        model=model if engine.is_quantized else _prepared(model, Path(request["out"] + ".onnx")),
        plan=Path(request["out"]),
        precision=engine.precision,
        float_type=float_type,
        shapes=engine.shapes or {},
        compute_capability=engine.compute_capability or (),
        optimization_level=engine.optimization_level,
        workspace_bytes=engine.workspace_bytes,
        threads=len(os.sched_getaffinity(0)),
        cache=cache,
        kept_float=_kept_float(model, request["exclude"]) if cache else frozenset(),
        timing_cache=Path(request["timing_cache"]) if request["timing_cache"] else None,
        tf32=engine.tf32,
        version_compatible=engine.version_compatible,
        hardware_compatible=engine.hardware_compatible,
    )


def _prepared(model: Path, out: Path) -> Path:
    out.write_bytes(model_to_bytes(prepare_model(onnx.load(model))))
    return out


def write_cache(request: dict[str, Any]) -> Path:
    """Return the file with TRT cache text of the request's table: TensorRT's own where it wrote it, else with constants.

    An imported table's constants are those that came with it, `kept`; others are measured on the model.
    """
    if request["native_cache"]:
        return Path(request["native_cache"])
    path = Path(request["out"] + ".cache")
    asked = {"model": request["model"], "table": request["table"], "kept": request["kept"], "listed": []}
    amax = export_cache(asked, lambda _event: None)["amax"]
    scales = {name: scale_from_amax(name, value) for name, value in amax.items()}
    path.write_text(format_trt_cache(scales), encoding="utf-8")
    return path


def _kept_float(model_path: Path, exclude: list[str]) -> frozenset[str]:
    """Return the outputs of the excluded nodes, and of the activation functions that TensorRT fuses with them."""
    graph = onnx.load(model_path, load_external_data=False).graph
    index = index_graph(graph)
    kept = set(find_excluded(exclude, graph, graph))
    for output in list(kept):
        reader = index.only_reader(output)
        if reader is not None and reader.op_type in ("Relu", "Clip"):
            kept.add(reader.output[0])
    return frozenset(kept)
