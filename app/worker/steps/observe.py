"""The step observe: decode, preprocess, run the FP32 model, count every activation that is asked for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.errors import CalibrationNonfinite
from app.inputs.batches import Batches
from app.observers.onnxruntime import ObserverSpec
from app.observers.onnxruntime import observe as observe_batches
from app.quant.graph import find_activations, find_needed_tensors
from app.quant.observation import observation_to_bytes
from app.spec import JobSpec
from app.worker.steps.images import calibration_files, open_batches


def observe(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the observation to `out`; return {"images", "skipped", "tensors", "seconds"}.

    request: {"model": path, "dataset": {"listing", "packs"}, "spec": JobSpec, "limits": InputLimits, "out": path}.
    Raises CalibrationNonfinite naming tensor and image, ImageCorrupt, DatasetTooSmall, CalibrationProblem.
    """
    began = time.monotonic()
    spec = JobSpec.model_validate(request["spec"])
    assert spec.calibration is not None
    files = calibration_files(request["dataset"]["listing"], spec.calibration.max_images)
    batches = open_batches(request, request["dataset"], files)
    tensors = _tensors(Path(request["model"]), spec.calibration.observe)
    report({"log": f"observing {len(tensors)} tensors on {len(files)} images"})
    counted = ObserverSpec(grid=spec.calibration.grid, total_images=len(files))
    try:
        observation = observe_batches(Path(request["model"]), tensors, batches, counted, report)
    except CalibrationNonfinite as problem:
        raise _named(problem, batches) from problem
    Path(request["out"]).write_bytes(observation_to_bytes(observation))
    seconds = round(time.monotonic() - began, 3)
    return {"images": observation.images, "skipped": batches.skipped[:100], "tensors": len(tensors), "seconds": seconds}


def _tensors(model_path: Path, wanted: str) -> list[str]:
    model = onnx.load(model_path, load_external_data=False) if wanted == "all" else onnx.load(model_path)
    return find_activations(model) if wanted == "all" else find_needed_tensors(model)


def _named(problem: CalibrationNonfinite, batches: Batches) -> CalibrationNonfinite:
    image = problem.facts["image"]
    is_known = isinstance(image, int) and image < len(batches.used)
    return CalibrationNonfinite(tensor=problem.facts["tensor"], image=batches.used[image] if is_known else image)
