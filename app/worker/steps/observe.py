"""The step observe: decode, preprocess, run the FP32 model, count every activation that is asked for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import CalibrationNonfinite, CalibrationProblem, DatasetTooSmall
from app.inputs.batches import Batches
from app.inputs.listing import spread_order
from app.observers.observing import Observer, observe_all
from app.observers.prepared import read_prepared
from app.quant.convergence import FIRST_LOOK_IMAGES
from app.quant.observation import Observation, merge_observations, observation_to_bytes
from app.spec import CalibrationSpec, JobSpec
from app.worker.steps.converge import observe_converging
from app.worker.steps.drift import Drift, look_at, tell_nobody
from app.worker.steps.images import Entry, Selection, calibration_files, odd_images, open_batches, read_listing, told_of
from app.worker.steps.known_observation import KnownObservation
from app.worker.steps.observer import open_observer

Report = Callable[[dict[str, Any]], None]

#: Of all skipped images so many are named.
_MAX_LISTED = 100
_MIXED_PARTS = (
    "the model computes {tensor} of several images together, so observations of parts cannot be merged; set "
    "calibration.shards to 1"
)
_CROSSING = "the model computes {tensor} across the images of a batch; each image was calibrated alone"


def observe(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the observation to `out`; return {"images", "known", "skipped", "tensors", "inner", "seconds", ...}.

    request: {"prepared": {"folder", "model", "tensors", "inner"} from the step prepare, "dataset": {"listing", "packs"},
    "spec": JobSpec, "limits": InputLimits, "out": path, "known": {"observation": path, "images": how many, "listing": path,
    "drift", "constant_images"} of a part of the images, or None, "part": [number, parts] or None, "observer":
    "onnxruntime" or "tensorrt"}. Images that are known are not run again; their histograms are merged with the rest. Of a
    part of the images to run the histograms are written alone, for the step merge; nothing where all of it was skipped.
    `mixed_tensors`: those that the model computes across the images of a batch, where each image was run alone all the same.
    `drift` tells how far thresholds moved with every doubling of the images, see `Drift`. On the mergeable grid, where
    their order changes nothing, they are run spread evenly, so that the first half of them is like the other half.
    Raises CalibrationNonfinite naming tensor and image, ImageCorrupt, DatasetTooSmall, CalibrationProblem.
    """
    began = time.monotonic()
    spec = JobSpec.model_validate(request["spec"])
    assert spec.calibration is not None
    every = calibration_files(request["dataset"]["listing"], spec.calibration)
    known = request["known"]
    files = select_part(_in_order(added_files(every, known["listing"]) if known else every, spec.calibration), request["part"])
    tensors = request["prepared"]["tensors"]
    report({"log": f"observing {len(tensors)} tensors on {len(files)} images"})
    batches = open_batches(request, request["dataset"], Selection(files, len(every), _batch_size(request, spec.calibration)))
    earlier = KnownObservation(known["observation"], known["images"]) if known and not request["part"] else None
    drift = None if request["part"] else Drift(earlier, tell_nobody if spec.calibration.converge else report)
    observer = open_observer(request, batches.images, report, None if spec.calibration.converge else drift)
    refuse_part(request, observer)
    observed, converge = _observe(observer, batches, spec.calibration, report, drift)
    refuse_part(request, observer)  # a GPU's pass is tried with its first batch
    taken = every[: converge["taken"]] if converge else every
    odd = odd_images(taken, [*(known.get("constant_images", ()) if known else ()), *batches.constant])
    crossing = _find_crossing(request)
    for line in (*told_of(odd), *told_of_crossing(crossing)) if not request["part"] else ():
        report({"log": line})
    parts = [part for part in (earlier and earlier.observation, observed) if part is not None]
    if parts or not request["part"]:
        merged = merge_all(parts)
        Path(request["out"]).write_bytes(observation_to_bytes(merged))
        look_at(drift, [merged])
    return {
        "images": sum(part.images for part in parts),
        "known": earlier.images if earlier else 0,
        "skipped": batches.skipped[:_MAX_LISTED],
        "skipped_count": len(batches.skipped),
        "allowed_bad": batches.allowed_bad,
        "converge": converge,
        "drift": drift.facts(known.get("drift") if known else None) if drift else None,
        "mixed": list(observer.mixed),
        "mixed_tensors": crossing,
        **odd,
        "tensors": len(tensors),
        "inner": request["prepared"]["inner"],
        "seconds": round(time.monotonic() - began, 3),
    }


def refuse_part(request: dict[str, Any], observer: Observer) -> None:
    """Raise CalibrationProblem for a part of the images where those that the model takes at once depend on one another.

    Then a part is observed otherwise than within all of them.
    """
    if observer.mixed and request["part"]:
        raise CalibrationProblem(reason=_MIXED_PARTS.format(tensor=observer.mixed[0]))


def told_of_crossing(tensors: list[str]) -> list[str]:
    """Return what a job's log says of tensors that the model computes across images that were run alone."""
    return [_CROSSING.format(tensor=tensors[0])] if tensors else []


def _find_crossing(request: dict[str, Any]) -> list[str]:
    if request["observer"] != "onnxruntime":
        return []  # a GPU's trial does not tell this from other reasons to run each image alone
    return list(read_prepared(Path(request["prepared"]["folder"])).crossing[:_MAX_LISTED])


def _is_spread(calibration: CalibrationSpec) -> bool:
    return calibration.grid == "mergeable" and calibration.converge is None


def _in_order(files: list[Entry], calibration: CalibrationSpec) -> list[Entry]:
    return spread_order(files) if _is_spread(calibration) else files  # with converge they are spread already


def select_part(files: list[Entry], part: list[int] | None) -> list[Entry]:
    """Return the entries of one of several contiguous parts, as equal as can be; all where there are no parts."""
    if part is None:
        return files
    number, parts = part
    return files[number * len(files) // parts : (number + 1) * len(files) // parts]


def added_files(files: list[Entry], known_listing: str) -> list[Entry]:
    """Return the entries that are not, with the same path and bytes, in the listing of known ones."""
    known = {(entry["path"], entry["sha256"]) for entry in read_listing(known_listing)["files"]}
    return [entry for entry in files if (entry["path"], entry["sha256"]) not in known]


def merge_all(parts: list[Observation]) -> Observation:
    """Return the observation of the images of all parts. Raises DatasetTooSmall where there are none."""
    if not parts:
        raise DatasetTooSmall(images=0, needed=1, reason="calibration measures activations on images")
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_observations(merged, part)
    return merged


def _batch_size(request: dict[str, Any], calibration: CalibrationSpec) -> int | None:
    """Return how many images come at a time, None for the job's number."""
    on_cpu = request["observer"] == "onnxruntime"
    if calibration.converge is not None:  # the batch size, which is in no key, must not decide which image is met last
        unit = read_prepared(Path(request["prepared"]["folder"])).unit_images if on_cpu else 1
        return -(-FIRST_LOOK_IMAGES // unit) * unit
    if calibration.grid == "mergeable" and on_cpu:
        return read_prepared(Path(request["prepared"]["folder"])).images  # threads begin with the first pass
    return None


def _observe(
    observer: Observer, batches: Batches, calibration: CalibrationSpec, report: Report, drift: Drift | None
) -> tuple[Observation | None, dict[str, Any] | None]:
    try:
        if calibration.converge is not None:
            return observe_converging(observer, batches, calibration, report, drift)
        return observe_all(observer, batches, report, drift.begin if drift else None), None
    except CalibrationNonfinite as problem:
        raise _named(problem, batches) from problem
    except DatasetTooSmall:
        return None, None  # every image that was to be run was skipped; there may be known ones


def _named(problem: CalibrationNonfinite, batches: Batches) -> CalibrationNonfinite:
    image = problem.facts["image"]
    is_known = isinstance(image, int) and image < len(batches.used)
    return CalibrationNonfinite(tensor=problem.facts["tensor"], image=batches.used[image] if is_known else image)
