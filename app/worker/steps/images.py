"""Which images a step works on, and their batches."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.inputs.batches import Batches, BatchOptions, read_batches
from app.inputs.labels import labels_from_listing
from app.inputs.limits import InputLimits
from app.inputs.listing import select_evenly
from app.spec import JobSpec

Entry = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """Entries to run, part of a job's `of` images: how many bad ones may be skipped is a fraction of those."""

    files: list[Entry]
    of: int


def read_listing(path: str) -> dict[str, Any]:
    """Return a stored listing."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def calibration_files(listing: str, max_images: int | None) -> list[Entry]:
    """Return the entries that are calibrated on: all, or max_images of them, spread evenly over the sorted paths."""
    return select_evenly(read_listing(listing)["files"], max_images)


def judge_files(request: dict[str, Any], spec: JobSpec) -> tuple[list[Entry], str]:
    """Return the entries that are judged on, and where they are from: `judge dataset`, `held out` or `calibration`.

    request: {"judge": {"listing", ...}, "calibration": path of the calibration's listing, or None where the judge
    images are a dataset of their own}.
    """
    files = read_listing(request["judge"]["listing"])["files"]
    source = "judge dataset"
    if request["calibration"] is not None:
        max_images = spec.calibration.max_images if spec.calibration else None
        seen = {entry["path"] for entry in calibration_files(request["calibration"], max_images)}
        held_out = [entry for entry in files if entry["path"] not in seen]
        files, source = (held_out, "held out") if held_out else (files, "calibration")
    return select_evenly(files, spec.judge.images), source


def judge_labels(request: dict[str, Any]) -> dict[str, int]:
    """Return {path: class index} of the judge dataset; empty where it has no labels."""
    return labels_from_listing(read_listing(request["judge"]["listing"])) or {}


def open_batches(request: dict[str, Any], dataset: dict[str, Any], selection: Selection) -> Batches:
    """Return the batches of these entries of a dataset, by the job's preprocess spec."""
    spec = JobSpec.model_validate(request["spec"])
    calibration = spec.calibration
    options = BatchOptions(batch_size=calibration.batch_size if calibration else 8, limits=InputLimits(**request["limits"]))
    if calibration is not None:
        skipping = {"on_bad_image": calibration.on_bad_image, "max_bad_fraction": calibration.max_bad_fraction}
        options = replace(options, **skipping, of_images=selection.of)
    packs = {digest: Path(path) for digest, path in dataset["packs"].items()}
    return read_batches(selection.files, packs, spec.preprocess, options)
