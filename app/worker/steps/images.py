"""Which images a step works on, and their batches."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.inputs.batches import Batches, BatchOptions, read_batches
from app.inputs.labels import labels_from_listing
from app.inputs.limits import InputLimits
from app.inputs.listing import select_evenly, spread_order
from app.inputs.pixels import KeptPixels
from app.spec import CalibrationSpec, JobSpec, PreprocessSpec

Entry = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """Entries to run, part of a job's `of` images: how many bad ones may be skipped is a fraction of those.

    `batch_size` None is the job's.
    """

    files: list[Entry]
    of: int
    batch_size: int | None = None


def read_listing(path: str) -> dict[str, Any]:
    """Return a stored listing."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def calibration_files(listing: str, calibration: CalibrationSpec | None) -> list[Entry]:
    """Return the entries to calibrate on: all, or max_images of them, spread evenly over the sorted paths.

    They come in sorted order, but with `converge`, which may stop after some, in the order of `spread_order`.
    """
    files = read_listing(listing)["files"]
    if calibration is None:
        return files
    chosen = select_evenly(files, calibration.max_images)
    return chosen if calibration.converge is None else spread_order(chosen)


def judge_files(request: dict[str, Any], spec: JobSpec) -> tuple[list[Entry], str]:
    """Return the entries that are judged on, and where they are from: `judge dataset`, `held out` or `calibration`.

    request: {"judge": {"listing", ...}, "calibration": path of the calibration's listing, or None where the judge
    images are a dataset of their own, "taken": how many of the calibration's entries were used, None for all}.
    """
    files = read_listing(request["judge"]["listing"])["files"]
    source = "judge dataset"
    if request["calibration"] is not None:
        calibrated = calibration_files(request["calibration"], spec.calibration)
        seen = {entry["path"] for entry in calibrated[: request["taken"]]}
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
    size = selection.batch_size or (calibration.batch_size if calibration else 8)
    options = BatchOptions(batch_size=size, limits=InputLimits(**request["limits"]), kept=_kept(request, spec.preprocess))
    if calibration is not None:
        skipping = {"on_bad_image": calibration.on_bad_image, "max_bad_fraction": calibration.max_bad_fraction}
        options = replace(options, **skipping, of_images=selection.of)
    packs = {digest: Path(path) for digest, path in dataset["packs"].items()}
    return read_batches(selection.files, packs, spec.preprocess, options)


def _kept(request: dict[str, Any], preprocess: PreprocessSpec) -> KeptPixels | None:
    pixels = request.get("pixels")
    return KeptPixels(Path(pixels["folder"]), pixels["bytes"], preprocess) if pixels else None
