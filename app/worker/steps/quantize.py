"""The step quantize: model and table in, Q/DQ model out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.quant.qdq import model_to_bytes, quantize_model
from app.quant.table import Table, scales_from_table, table_from_json
from app.spec import QuantizeSpec


def quantize(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the Q/DQ model to `out`; return the report of its placement.

    request: {"model": path, "table": path, "quantize": QuantizeSpec, "out": path}. Raises TableIncomplete,
    QuantizeProblem, SpecProblem for an unknown exclude.
    """
    table = read_table(request["table"])
    spec = QuantizeSpec.model_validate(request["quantize"])
    return write_quantized(onnx.load(request["model"]), table, spec, Path(request["out"]))


def read_table(path: str) -> Table:
    """Return a stored table."""
    return table_from_json(Path(path).read_bytes())


def write_quantized(model: onnx.ModelProto, table: Table, spec: QuantizeSpec, out: Path) -> dict[str, Any]:
    """Write the Q/DQ model of a table to a file; return the report of its placement."""
    scales = {name: float(scale) for name, scale in scales_from_table(table).items()}
    quantized = quantize_model(model, scales, spec, table.dead)
    out.write_bytes(model_to_bytes(quantized.model))
    return quantized.report
