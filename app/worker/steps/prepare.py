"""The step prepare: the model that will be observed, and for the CPU everything that its observer needs."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.errors import InsufficientStorage
from app.native.heap import trim_heap
from app.observers.plan import make_plan
from app.observers.prepare import prepare_model_to_observe
from app.quant.graph import arrange_for_placement, find_activations, find_needed_tensors, prepare_model
from app.quant.inner import append_inner, find_observable_inner
from app.quant.randomness import check_repeatable
from app.quant.selection import find_excluded
from app.worker.steps.equalize import write_equalized

Report = Callable[[dict[str, Any]], None]

_EQUALIZED = "equalized.onnx"


def prepare(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write to `out` what observing needs; return {"tensors": names, "inner", "model": name of a file in `out`, or None}.

    request: {"model": path, "observe": "needed" or "all", "equalize": bool, "grid": mergeable or tensorrt, "image_shape": of
    one image's batch, "observer": "onnxruntime" or "tensorrt", "out": folder}. Where the model will be equalized, that one
    is observed: it is the file. For onnxruntime its optimized segments are there, too. Of the tensors, `inner` are those
    inside the model's nodes: all of them that can be observed, unless only what is needed is. Raises CalibrationProblem,
    CalibrationRandom, InsufficientStorage.
    """
    # No JobSpec: pydantic would be a tenth of this process's memory.
    try:
        Path(request["out"]).mkdir()
        return _prepare(request, report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientStorage from error
        raise


def _prepare(request: dict[str, Any], report: Report) -> dict[str, Any]:
    path, out = Path(request["model"]), Path(request["out"])
    tensors, inner = _find_tensors(path, request["observe"])
    trim_heap()
    if request["equalize"]:  # no cache can be exported, so nobody asks for what is inside
        path, kept = write_equalized(path, out / _EQUALIZED)
        tensors, inner = [name for name in tensors if name in kept], []
    tensors += inner
    if request["observer"] == "onnxruntime":
        model = onnx.load(path)
        append_inner(model, inner)
        plan = make_plan(model, tensors, request["grid"])
        prepared = prepare_model_to_observe(model, plan, tuple(request["image_shape"]), out)
        report({"log": f"prepared {len(tensors)} tensors to be observed in {len(prepared.segments)} segments"})
    return {"tensors": tensors, "inner": inner, "model": _EQUALIZED if request["equalize"] else None}


def check_excluded(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return {}. request: {"model": path, "exclude": names, "placement"}. Raises SpecProblem for names that fit no node."""
    model = onnx.load(request["model"])
    prepared = prepare_model(model)
    arrange_for_placement(prepared, request["placement"])
    find_excluded(request["exclude"], model.graph, prepared.graph)
    return {}


def _find_tensors(model_path: Path, wanted: str) -> tuple[list[str], list[str]]:
    """Return the names of the model's activations to observe, and of tensors inside its nodes."""
    if wanted == "needed":
        model = onnx.load(model_path)
        needed = find_needed_tensors(model)
        check_repeatable(model.graph, needed)
        return needed, []
    model = onnx.load(model_path, load_external_data=False)
    activations = find_activations(model)
    check_repeatable(model.graph, activations)
    return activations, find_observable_inner(model, set(activations))
