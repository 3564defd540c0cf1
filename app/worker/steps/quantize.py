"""The step quantize: model and table in, Q/DQ model out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from app.engines.sensitivity import QuantizedPair
from app.engines.tune import Learned
from app.quant.qdq import QuantizedModel, model_to_bytes, quantize_model
from app.quant.table import Table, scales_from_table, table_from_json
from app.spec import QuantizeSpec
from app.worker.steps.tune import learn

Report = Callable[[dict[str, Any]], None]


def quantize(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the Q/DQ model to `out`; return the report of its placement.

    request: {"model": path, "table": path, "quantize": QuantizeSpec, "out": path}; where the spec asks for tuning also
    {"dataset": {"listing", "packs"}, "spec": JobSpec, "limits": InputLimits}. Raises TableIncomplete, QuantizeProblem,
    SpecProblem for an unknown exclude.
    """
    table = read_table(request["table"])
    spec = QuantizeSpec.model_validate(request["quantize"])
    quantizer = Quantizer(onnx.load(request["model"]), table, request, report)
    return quantizer.write(spec, Path(request["out"]))


def read_table(path: str) -> Table:
    """Return a stored table."""
    return table_from_json(Path(path).read_bytes())


@dataclass
class Quantizer:
    """Makes Q/DQ models of one model and table; what tuning learns of the images is learned once, for any exclude."""

    model: onnx.ModelProto
    table: Table
    request: dict[str, Any]
    report: Report
    learned: Learned | None = None

    def quantize(self, spec: QuantizeSpec) -> QuantizedModel:
        """Return the Q/DQ model of a spec; those of further specs may exclude more than the first, not less."""
        scales = {name: float(scale) for name, scale in scales_from_table(self.table).items()}
        tune = self._tune if spec.is_tuned else None
        return quantize_model(self.model, scales, spec, self.table.dead, tune, self.table.extremes)

    def write(self, spec: QuantizeSpec, out: Path) -> dict[str, Any]:
        """Write the Q/DQ model to a file; return the report of its placement."""
        quantized = self.quantize(spec)
        out.write_bytes(model_to_bytes(quantized.model))
        return quantized.report

    def _tune(self, float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, Any]:
        if self.learned is None:
            self.learned = learn(QuantizedPair(quantized, float_model), self.request, self.report)
        return self.learned.apply(float_model, quantized)
