"""The step import_table: a foreign table is parsed and matched with the tensors of a model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.quant.graph import find_activations, find_needed_tensors
from app.quant.table import Table, scales_from_table, table_from_json, table_from_scales, table_to_json
from app.quant.trt_cache import parse_trt_cache

#: TensorRT writes these for itself: broadcast constants, and the matrix product inside a Gemm.
_INTERNAL_PREFIXES = ("ONNXTRT_", "(Unnamed Layer* ")


def import_table(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the table's JSON to `out`; return what of it the model knows.

    request: {"model": path, "cache": path, "out": path}. Returns {"method", "tensors", "needed", "covered", "details"}:
    details lists names as matched, constants, internal, unknown, missing. Raises TableProblem, TableScaleInvalid.
    """
    content = Path(request["cache"]).read_bytes()
    table, method = _parse(content)
    model = onnx.load(request["model"])
    details = match_names(model, scales_from_table(table))
    kept = set(details["matched"])
    matched = Table({name: amax for name, amax in table.amax.items() if name in kept}, (), method)
    Path(request["out"]).write_text(json.dumps(table_to_json(matched), sort_keys=True), encoding="utf-8")
    needed = find_needed_tensors(model)
    covered = len(needed) - len(details["missing"])
    return {"method": method, "tensors": len(kept), "needed": len(needed), "covered": covered, "details": details}


def match_names(model: onnx.ModelProto, scales: Mapping[str, np.float32]) -> dict[str, list[str]]:
    """Return the table's names by what they are in the model, and the names that a quantizer needs and misses."""
    activations = set(find_activations(model))
    constants = {name for tensor in model.graph.initializer for name in (tensor.name, f"{tensor.name}_output")}
    constants |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    products = {f"{node.name}_output{end}" for node in model.graph.node if node.op_type == "Gemm" for end in ("", "_0")}
    found: dict[str, list[str]] = {"matched": [], "constants": [], "internal": [], "unknown": []}
    for name in scales:
        found[_kind(name, activations, constants, products)].append(name)
    return found | {"missing": [name for name in find_needed_tensors(model) if name not in scales]}


def _kind(name: str, activations: set[str], constants: set[str], products: set[str]) -> str:
    if name in activations:
        return "matched"
    if name in constants:
        return "constants"
    return "internal" if name.startswith(_INTERNAL_PREFIXES) or name in products else "unknown"


def _parse(content: bytes) -> tuple[Table, str]:
    if content.lstrip()[:1] == b"{":
        table = table_from_json(content)
        return table, table.method
    cache = parse_trt_cache(content)
    return table_from_scales({name: float(scale) for name, scale in cache.scales.items()}), cache.algorithm
