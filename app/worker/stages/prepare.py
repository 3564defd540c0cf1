"""What observing a model needs beside the images, kept on this machine: it depends on the model, the grid and the CPU."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from app import keys
from app.blobs.durable import raising_problems
from app.native.kernel import describe_cpu
from app.spec import JobSpec
from app.worker.context import Run
from app.worker.files import model_path
from app.worker.room import UNFINISHED, make_room

STEP = "app.worker.steps.prepare:prepare"
CHECK_STEP = "app.worker.steps.prepare:check_excluded"

_ANSWER = "answer.json"
#: Raised when what is kept is written or used in another way.
_VERSION = 4


def find_or_prepare(run: Run) -> dict[str, Any]:
    """Return {"folder", "model": path, "tensors": names, "inner": names}, made now unless this machine has it."""
    _check_excluded(run)
    key = _key(run)
    folder = run.worker.settings.prepared_folder / key
    with run.claim(key):
        answer = _read_answer(folder) or _prepare(run, folder)
    needs_model = answer["model"] is None and _observer(run) == "tensorrt"
    given = model_path(run.worker.blobs, run.job.model, run.folder / "model") if needs_model else None
    own = str(folder / answer["model"]) if answer["model"] else None
    return {"folder": str(folder), "model": own or given, "tensors": answer["tensors"], "inner": answer["inner"]}


def _check_excluded(run: Run) -> None:
    # An exclude that names nothing fails now, rather than after the calibration.
    quantize = run.job.spec.quantize
    names = list(quantize.excluding(()).exclude)
    if names:
        model = model_path(run.worker.blobs, run.job.model, run.folder / "model")
        run.child(CHECK_STEP, {"model": model, "exclude": names, "placement": quantize.placement})


def _read_answer(folder: Path) -> dict[str, Any] | None:
    try:
        os.utime(folder)  # in use from now on
        return json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _observer(run: Run) -> str:
    return run.job.tools.observer.split()[0]


def _key(run: Run) -> str:
    calibration, quantize = run.job.spec.calibration, run.job.spec.quantize
    assert calibration is not None
    return keys.key_from(
        version=_VERSION,
        model=run.job.model.digest,
        preprocess=run.job.spec.preprocess,
        observe=calibration.observe,
        grid=calibration.grid,
        equalize=keys.EQUALIZER if quantize.equalize else None,
        observer=f"{run.job.tools.observer}/{keys.OBSERVER_VERSION}",
        cpu=describe_cpu(),
    )


def _prepare(run: Run, folder: Path) -> dict[str, Any]:
    with raising_problems():
        folder.parent.mkdir(parents=True, exist_ok=True)
    make_room(folder.parent, run.worker.settings.prepared_bytes)
    fresh = folder.parent / f"{UNFINISHED}{uuid.uuid4().hex}"
    model = model_path(run.worker.blobs, run.job.model, run.folder / "model")
    request = {"model": model, "observer": _observer(run), "out": str(fresh), **asked_of_model(run.job.spec)}
    try:
        answer = run.child(STEP, request)
        with raising_problems():
            (fresh / _ANSWER).write_text(json.dumps(answer), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # what is there has no answer
            fresh.rename(folder)
        return answer
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def asked_of_model(spec: JobSpec) -> dict[str, Any]:
    """Return what the step prepare takes of a resolved spec: {"observe", "grid", "equalize", "image_shape"}."""
    assert spec.calibration is not None
    assert spec.preprocess.size is not None
    sizes, channels = list(spec.preprocess.size), spec.preprocess.channels
    shape = [1, *sizes, channels] if spec.preprocess.layout == "NHWC" else [1, channels, *sizes]
    asked = {"observe": spec.calibration.observe, "grid": spec.calibration.grid, "equalize": spec.quantize.equalize}
    return asked | {"image_shape": shape}  # of one image's batch
