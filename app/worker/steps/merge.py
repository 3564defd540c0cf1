"""The step merge: observations of parts of the images become the observation of all, byte for byte that of one pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import ImageCorrupt
from app.quant.observation import Observation, observation_to_bytes
from app.worker.steps.drift import Drift, look_at
from app.worker.steps.images import told_of
from app.worker.steps.known_observation import read_observation
from app.worker.steps.observe import merge_all, told_of_crossing


def merge(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the merged observation to `out`; return what the step observe would have of all images at once.

    request: {"parts": [path], "reports": what the step observe returned of each, "known": {"observation": path} or
    None, "out": path}. A part of which every image was skipped has no file. Raises ImageCorrupt where the parts skipped
    more than may be, DatasetTooSmall, CalibrationProblem.
    """
    reports = request["reports"]
    skipped = [name for part in reports for name in part["skipped"]]
    count = sum(part["skipped_count"] for part in reports)
    if count > reports[0]["allowed_bad"]:
        raise ImageCorrupt(count=count, names=skipped)
    paths = [path for path in request["parts"] if Path(path).exists()]
    known = [read_observation(request["known"]["observation"])] if request["known"] else []
    drift = Drift(report=report)
    observation = _merged(known, paths, drift)
    Path(request["out"]).write_bytes(observation_to_bytes(observation))
    report({"log": f"merged {len(paths)} shards of {observation.images} images"})
    constant = sorted({path for part in reports for path in part["constant_images"]})
    odd = {"repeated_images": reports[0]["repeated_images"], "constant_images": constant[:100]}
    for line in (*told_of(odd), *told_of_crossing(reports[0]["mixed_tensors"])):
        report({"log": line})
    return reports[0] | {
        "images": observation.images,
        "known": sum(part.images for part in known),
        "skipped": skipped[:100],
        "skipped_count": count,
        **odd,
        "seconds": max(part["seconds"] for part in reports),
        "shards": len(reports),
        "drift": drift.facts((request["known"] or {}).get("drift")),
    }


def _merged(known: list[Observation], paths: list[str], drift: Drift) -> Observation:
    """Return the observation of all; drift is told after every doubling of the shards, or of known images and of all."""
    parts = [read_observation(path) for path in paths]
    doublings = [1 << power for power in range(len(parts).bit_length()) if 1 << power < len(parts)]
    look_at(drift, known or [merge_all(parts[:count]) for count in doublings])
    merged = merge_all(known + parts)
    look_at(drift, [merged])
    return merged
