"""What observing a model needs beside the images, kept on this machine: it depends on the model and on the CPU alone."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from app import keys
from app.native.kernel import describe_cpu
from app.worker.context import Run
from app.worker.files import model_path
from app.worker.room import UNFINISHED, make_room

STEP = "app.worker.steps.prepare:prepare"

_ANSWER = "answer.json"


def find_or_prepare(run: Run) -> dict[str, Any]:
    """Return {"folder", "model": path, "tensors": names}, made now unless this machine has it."""
    folder = run.worker.settings.prepared_folder / _key(run)
    if not (folder / _ANSWER).exists():
        _prepare(run, folder)
    os.utime(folder)
    answer = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    needs_model = answer["model"] is None and _observer(run) == "tensorrt"
    given = model_path(run.worker.blobs, run.job.model, run.folder / "model") if needs_model else None
    own = str(folder / answer["model"]) if answer["model"] else None
    return {"folder": str(folder), "model": own or given, "tensors": answer["tensors"]}


def _observer(run: Run) -> str:
    return run.job.tools.observer.split()[0]


def _key(run: Run) -> str:
    calibration, quantize = run.job.spec.calibration, run.job.spec.quantize
    assert calibration is not None
    return keys.key_from(
        model=run.job.model.digest,
        preprocess=run.job.spec.preprocess,
        observe=calibration.observe,
        equalize=keys.EQUALIZER if quantize.equalize else None,
        exclude=list(quantize.excluding(()).exclude) or None,
        observer=f"{run.job.tools.observer}/{keys.OBSERVER_VERSION}",
        cpu=describe_cpu(),
    )


def _prepare(run: Run, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_room(folder.parent, run.worker.settings.prepared_bytes)
    fresh = folder.parent / f"{UNFINISHED}{uuid.uuid4().hex}"
    request = {
        "model": model_path(run.worker.blobs, run.job.model, run.folder / "model"),
        "spec": run.job.spec.model_dump(mode="json"),
        "observer": _observer(run),
        "out": str(fresh),
    }
    try:
        answer = run.child(STEP, request)
        (fresh / _ANSWER).write_text(json.dumps(answer), encoding="utf-8")
        if not folder.exists():  # another job may have been first; theirs is as good
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
