"""Our calibration: observe, search, and add images to what is known. The model is prepared before."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.bench.meter import Meter, milliseconds
from app.bench.subject import Subject
from app.observers.counting import load as load_kernel
from app.observers.onnxruntime import Observer, ObserverSpec
from app.observers.prepared import read_prepared
from app.quant.observation import Observation, merge_observations, observation_to_bytes
from app.quant.table import table_from_observation
from app.spec import DERIVED_METHODS
from app.worker.steps.drift import Drift
from app.worker.steps.known_observation import KnownObservation, read_observation

Report = Callable[[dict[str, Any]], None]


def observe(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the observation of `images` images (None: all) to `out`; return what a Meter does, and how many tensors.

    request: {"subject", "prepared": folder, "images", "out", "known": path of the observation
    of all images of subject, to be merged with, or None}.
    """
    subject = Subject.from_json(request["subject"])
    meter = Meter()
    prepared = read_prepared(Path(request["prepared"]))
    load_kernel("count_mergeable")
    known = KnownObservation(request["known"], subject.count) if request["known"] else None
    drift = Drift(known, report)
    images = request["images"] or subject.count
    watching = ObserverSpec(total_images=images, watch=drift.look_at_added, known_images=drift.known_images)
    with Observer(prepared, watching) as observer:
        meter.started()
        for batch in subject.batches(prepared.images, 0, request["images"]):
            observer.add(batch)
        drift.begin()
        observation = observer.observation()
    merged = merge_observations(known.observation, observation) if known else observation
    drift.look(merged)
    Path(request["out"]).write_bytes(observation_to_bytes(merged))
    return meter.ended() | {"tensors": len(prepared.plan.views), "images": observation.images}


def search(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Return {"milliseconds": {method: ms a tensor, the median of five}, "amax": {tensor: by entropy}} of `observation`."""
    observation = read_observation(request["observation"])
    for method in DERIVED_METHODS:  # the first call loads compiled code
        table_from_observation(observation, method)
    count = max(len(observation.histograms), 1)
    took = {name: statistics.median(_search_times(observation, name)) / count for name in DERIVED_METHODS}
    return {"milliseconds": took, "amax": table_from_observation(observation, "entropy").amax}


def _search_times(observation: Observation, method: str) -> list[float]:
    return [milliseconds(lambda: table_from_observation(observation, method)) for _ in range(5)]
