"""The step quantize: model and table in, Q/DQ model out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from app.engines.sensitivity import QuantizedPair
from app.engines.tune import Found, Known, Learned
from app.quant.qdq import QuantizedModel, Tune, model_to_bytes, quantize_model
from app.quant.table import Table, scales_from_table, table_from_json
from app.spec import QuantizeSpec
from app.worker.steps.tune import learn

Report = Callable[[dict[str, Any]], None]


def quantize(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the Q/DQ model to `out`; return the report of its placement.

    request: {"model": path, "table": path, "quantize": QuantizeSpec, "out": path}; where the spec asks for tuning also
    {"dataset": {"listing", "packs"}, "calibration": see `judge_files`, "spec": JobSpec, "limits": InputLimits}. Raises
    TableIncomplete, QuantizeProblem, SpecProblem for an unknown exclude.
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
    """Makes Q/DQ models of one model and table; what is learned of the images is kept for trials.

    Where trials may take most of it over, a model to be kept is learned anew, so that its bytes depend on its spec alone.
    """

    model: onnx.ModelProto
    table: Table
    request: dict[str, Any]
    report: Report
    _known: dict[str, Found] = field(default_factory=dict)
    _learned: dict[str, Learned] = field(default_factory=dict)

    def quantize(self, spec: QuantizeSpec) -> QuantizedModel:
        """Return the Q/DQ model of a spec, the same bytes whatever was made before."""
        return self._quantize(spec, partial(self._tune, spec))

    def quantize_for_trial(self, spec: QuantizeSpec) -> QuantizedModel:
        """Return the Q/DQ model of a spec, but for last bits: nodes that were like this in another model are taken over."""
        return self._quantize(spec, self._tune_what_is_new)

    def write(self, spec: QuantizeSpec, out: Path) -> dict[str, Any]:
        """Write the Q/DQ model to a file; return the report of its placement."""
        quantized = self.quantize(spec)
        out.write_bytes(model_to_bytes(quantized.model))
        return quantized.report

    def _quantize(self, spec: QuantizeSpec, tune: Tune) -> QuantizedModel:
        scales = {name: float(scale) for name, scale in scales_from_table(self.table).items()}
        wanted = tune if spec.is_tuned else None
        return quantize_model(self.model, scales, spec, self.table.dead, wanted, self.table.extremes)

    def _tune(self, spec: QuantizeSpec, float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, Any]:
        asked = spec.model_dump_json()
        if asked not in self._learned:
            self._learned = {asked: self._learn(QuantizedPair(quantized, float_model), {})}
        return self._learned[asked].apply(float_model, quantized)

    def _tune_what_is_new(self, float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, Any]:
        return self._learn(QuantizedPair(quantized, float_model), self._known).apply(float_model, quantized)

    def _learn(self, pair: QuantizedPair, known: Known) -> Learned:
        learned = learn(pair, self.request, self.report, known)
        self._known |= learned.known
        return learned
