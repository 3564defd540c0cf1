"""Which images a step works on, and their batches."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.inputs.batches import Batches, BatchOptions, read_batches
from app.inputs.labels import labels_from_listing
from app.inputs.limits import InputLimits
from app.inputs.listing import select_evenly, spread_order
from app.inputs.pixels import KeptPixels
from app.spec import CalibrationSpec, JobSpec, PreprocessSpec

Entry = dict[str, Any]

#: Where there are no other images, what is chosen is chosen on those that are judged on.
JUDGED = "judged images"
#: Images of which nobody knows whether the table was calibrated on them, for it came from outside.
PERHAPS_CALIBRATION = "perhaps calibration"
#: So many other images are enough to choose by.
_ENOUGH = 100
#: Of images that something is wrong with so many are kept by name, and so many named in a line.
_MOST_NAMED, _MOST_LOGGED = 100, 5


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


def odd_images(files: Sequence[Entry], constant: Sequence[str]) -> dict[str, Any]:
    """Return what a user should know of the images to calibrate on; `constant` are the paths of those of one colour.

    repeated_images: how many have the bytes of another one before, and so count more than once · constant_images: up to
    100 paths.
    """
    repeated = len(files) - len({entry["sha256"] for entry in files})
    return {"repeated_images": repeated, "constant_images": list(constant)[:_MOST_NAMED]}


def told_of(odd: dict[str, Any]) -> Iterator[str]:
    """Yield a line for people of each oddity."""
    if repeated := odd["repeated_images"]:
        yield f"images that are copies of others, and so count more than once: {repeated}"
    if constant := odd["constant_images"]:
        more = ["..."] if len(constant) > _MOST_LOGGED else []
        yield f"images of one colour alone: {', '.join(constant[:_MOST_LOGGED] + more)}"


def judge_files(request: dict[str, Any], spec: JobSpec) -> tuple[list[Entry], str]:
    """Return the entries that are judged on, and what they are.

    `judge dataset`, `held out` of what the table was calibrated on, `calibration` or, where that is not known, `perhaps
    calibration`. request: {"judge": {"listing", ...}, "is_apart": whether these are a dataset given to judge on,
    "calibration": {"listing": path, "max_images", "converge", "taken", "is_own": whether it is that of the job's dataset},
    None where it is not known}; see `provenance.calibration_from_facts`.
    """
    files, calibration = read_listing(request["judge"]["listing"])["files"], request["calibration"]
    if request["is_apart"]:
        source = "judge dataset"
    elif calibration is None:
        source = PERHAPS_CALIBRATION
    else:
        held_out = _not_seen(files, calibration)
        files, source = (held_out, "held out") if held_out else (files, "calibration")
    return select_evenly(files, spec.judge.images), source


def _not_seen(files: list[Entry], calibration: dict[str, Any]) -> list[Entry]:
    # In another dataset the same image may have another name.
    known_by = "path" if calibration["is_own"] else "sha256"
    seen = {entry[known_by] for entry in _seen(calibration)}
    return [entry for entry in files if entry[known_by] not in seen]


def _seen(calibration: dict[str, Any]) -> list[Entry]:
    chosen = select_evenly(read_listing(calibration["listing"])["files"], calibration["max_images"])
    return (spread_order(chosen) if calibration["converge"] else chosen)[: calibration["taken"]]


def tuning_files(request: dict[str, Any], spec: JobSpec) -> list[Entry]:
    """Return the entries that a Q/DQ model may be tuned on, in sorted order: what the job calibrates on.

    Where the table's calibration stopped early, they are those that it took: others may be held out to judge on.
    request: {"dataset": {"listing", ...}, "calibration": see `judge_files`}.
    """
    calibration = request["calibration"]
    if calibration is not None and calibration["is_own"] and calibration["converge"]:
        return sorted(_seen(calibration), key=lambda entry: entry["path"])
    assert spec.calibration is not None
    return calibration_files(request["dataset"]["listing"], spec.calibration.model_copy(update={"converge": None}))


@dataclass(frozen=True)
class Chosen:
    """Entries to choose by, of the request's `dataset`: "judge" or "dataset"; `source`: what they are, for the report."""

    files: list[Entry]
    dataset: str
    source: str

    @property
    def is_sampled(self) -> bool:
        """Whether the final figure is measured on other images."""
        return self.source != JUDGED


def choosing_files(request: dict[str, Any], spec: JobSpec) -> Chosen:
    """Return the entries on which something is chosen, at most as many as are judged on, spread evenly, in any order.

    They are not those that the final figure is reported on, as long as there are others: the judge's own other images
    where there are as many as are judged on (or 100), else images that were calibrated on.
    request: that of `judge_files`, and {"dataset": {"listing", ...}}.
    """
    judged, source = judge_files(request, spec)
    every, _ = judge_files(request, spec.model_copy(update={"judge": spec.judge.model_copy(update={"images": 1 << 30})}))
    needed = min(len(judged), _ENOUGH)
    others = _without(every, judged)
    if len(others) >= needed:
        return Chosen(spread_order(select_evenly(others, spec.judge.images)), "judge", f"other images of: {source}")
    own = calibration_files(request["dataset"]["listing"], spec.calibration)
    others = _without(own, judged) if request["dataset"]["listing"] == request["judge"]["listing"] else own
    if len(others) >= needed:
        is_calibrated = request["calibration"] is not None and request["calibration"]["is_own"]
        source = "calibration" if is_calibrated else PERHAPS_CALIBRATION
        return Chosen(spread_order(select_evenly(others, spec.judge.images)), "dataset", source)
    return Chosen(spread_order(judged), "judge", JUDGED)


def _without(files: list[Entry], seen: list[Entry]) -> list[Entry]:
    paths = {entry["path"] for entry in seen}
    return [entry for entry in files if entry["path"] not in paths]


def labelled_batches(
    request: dict[str, Any], dataset: str, files: list[Entry]
) -> Iterator[tuple[np.ndarray, Sequence[int | None]]]:
    """Yield batches of entries of the request's `dataset` ("judge", "dataset"), with each image's class index or None."""
    labels = labels_from_listing(read_listing(request[dataset]["listing"])) or {}
    batches = open_batches(request, request[dataset], Selection(files, len(files)))
    handed_out = 0
    for batch in batches:
        names = batches.used[handed_out : handed_out + len(batch)]
        handed_out += len(batch)
        yield batch, [labels.get(name) for name in names]


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
