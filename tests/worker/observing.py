"""Requests of the step observe on the packaged digits, without a server."""

import hashlib
import json
from pathlib import Path
from typing import Any

from app.inputs.dataset import unpack_dataset
from app.inputs.limits import InputLimits
from app.spec import JobSpec
from app.worker.stages.prepare import asked_of_model
from app.worker.steps.observe import observe
from app.worker.steps.prepare import prepare
from tests.api.test_uploads import members, zip_of
from tests.running import CALIBRATION, MODEL

LIMITS = InputLimits().model_dump(mode="json")
DIGITS = dict(sorted(members(CALIBRATION).items()))


def ignore(_event: dict[str, Any]) -> None:
    """Take a report and do nothing."""


def store_dataset(folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """Unpack an archive of these files as an upload does; return {"listing", "packs"}."""
    archive = folder / "images.zip"
    archive.write_bytes(zip_of(files))
    pack, listing = folder / "pack", folder / "listing"
    request = {"archive": str(archive), "pack": str(pack), "listing": str(listing), "limits": LIMITS}
    unpack_dataset(request, ignore)
    digest = hashlib.sha256(pack.read_bytes()).hexdigest()
    stored = json.loads(listing.read_text())
    stored["files"] = [entry | {"pack": digest} for entry in stored["files"]]
    listing.write_text(json.dumps(stored))
    return {"listing": str(listing), "packs": {digest: str(pack)}}


def request_on(dataset: dict[str, Any], out: Path, model: Path = MODEL, **calibration: Any) -> dict[str, Any]:
    """Return a request on all images of a stored dataset."""
    job = spec_on(**calibration)
    spec = job.model_dump(mode="json")
    folder = out.with_name(f"{out.name}-prepared")
    asked = {"model": str(model), "observer": "onnxruntime", "out": str(folder)}
    answer = prepare(asked | asked_of_model(job), ignore)
    prepared = answer | {"folder": str(folder), "model": str(model)}
    fields = {"prepared": prepared, "dataset": dataset, "spec": spec, "limits": LIMITS}
    return fields | {"out": str(out), "known": None, "part": None, "observer": "onnxruntime"}


def spec_on(**calibration: Any) -> JobSpec:
    """Return the job of a request."""
    return JobSpec.model_validate({"model": "m", "dataset": "d", "calibration": calibration, "preprocess": PREPROCESS})


def observed(request: dict[str, Any]) -> bytes:
    """Run the step and return the observation's bytes."""
    observe(request, ignore)
    return Path(request["out"]).read_bytes()


PREPROCESS = {"size": [28, 28], "color": "L", "layout": "NCHW"}
