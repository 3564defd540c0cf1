"""The step calibrate: TensorRT's own calibrator on the job's images; its cache is kept as it is, and read as a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.engines.native import NativeCalibration, calibrate_natively
from app.errors import ModelInputUnsupported
from app.inputs.batches import Batches
from app.quant.graph import find_activations
from app.quant.native_cache import scales_from_native_cache
from app.quant.randomness import check_repeatable
from app.quant.table import Table, table_from_scales, table_to_text
from app.spec import JobSpec
from app.worker.steps.images import Selection, calibration_files, odd_images, open_batches, told_of

Report = Callable[[dict[str, Any]], None]


def calibrate(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the table's JSON to `out` and TensorRT's cache to `cache`; return {"tensors", "images", "left_out", ...}.

    request: {"model": path, "dataset": {"listing", "packs"}, "spec": JobSpec, "limits": InputLimits, "out": path, "cache":
    path}. Images that fill no whole batch are left out. Raises CalibrationProblem, CalibrationRandom,
    ModelInputUnsupported, ImageCorrupt, EngineProblem, GpuOom, GpuLost.
    """
    spec = JobSpec.model_validate(request["spec"])
    assert spec.calibration is not None
    files = calibration_files(request["dataset"]["listing"], spec.calibration)
    batches = open_batches(request, request["dataset"], Selection(files, len(files)))
    model = onnx.load(request["model"])
    check_repeatable(model.graph, ())
    wanted = _wanted(model, Path(request["model"]), spec)
    text, facts = calibrate_natively(wanted, _counted(batches, report), report)
    Path(request["cache"]).write_bytes(text)
    if facts["left_out"]:
        report({"log": f"{facts['left_out']} images left out: they do not fill a batch of {spec.calibration.batch_size}"})
    odd = odd_images(files, batches.constant)
    for line in told_of(odd):
        report({"log": line})
    table = _table(model, text, spec.calibration.method)
    Path(request["out"]).write_text(table_to_text(table), encoding="utf-8")
    return {
        "tensors": len(table.amax),
        "dead": list(table.dead),
        "images": facts["batches"] * spec.calibration.batch_size,
        "left_out": facts["left_out"],
        "skipped": batches.skipped[:100],
        **odd,
    }


def _wanted(model: onnx.ModelProto, path: Path, spec: JobSpec) -> NativeCalibration:
    assert spec.calibration is not None
    constants = {tensor.name for tensor in model.graph.initializer}
    image = next(value for value in model.graph.input if value.name not in constants)
    channels, (height, width) = spec.preprocess.channels, spec.preprocess.size or (0, 0)
    is_first = spec.preprocess.layout == "NCHW"
    sizes = (channels, height, width) if is_first else (height, width, channels)
    batch = image.type.tensor_type.shape.dim[0]
    if batch.HasField("dim_value") and batch.dim_value != spec.calibration.batch_size:
        reason = f"its batch is always {batch.dim_value}; set calibration.batch_size to that for a native calibrator"
        shape = [d.dim_value or d.dim_param for d in image.type.tensor_type.shape.dim]
        raise ModelInputUnsupported(input=image.name, dtype="float32", shape=shape, reason=reason)
    workspace = spec.engine.workspace_bytes if spec.engine else None
    shape = (spec.calibration.batch_size, *sizes)
    return NativeCalibration(path, spec.calibration.method, image.name, shape, workspace_bytes=workspace)


def _counted(batches: Batches, report: Report) -> Any:
    for batch in batches:
        report({"progress": [len(batches.used), batches.images]})
        yield np.ascontiguousarray(batch)


def _table(model: onnx.ModelProto, text: bytes, method: str) -> Table:
    scales, dead = scales_from_native_cache(text, find_activations(model))
    amax = table_from_scales({name: float(scale) for name, scale in scales.items()}).amax
    return Table(amax, tuple(sorted(dead)), method)
