"""Our calibration: observe, search, and add images to what is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.bench.meter import Meter, milliseconds
from app.bench.subject import Subject
from app.observers import kernels
from app.observers.onnxruntime import Observer, ObserverSpec
from app.quant.graph import find_needed_tensors
from app.quant.observation import Observation, merge_observations, observation_from_bytes, observation_to_bytes
from app.quant.table import table_from_observation
from app.spec import DERIVED_METHODS

Report = Callable[[dict[str, Any]], None]

_BATCH = 8


def observe(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Write the observation of `images` images (None: all) to `out`; return what a Meter does, and how many tensors.

    request: {"subject", "images", "out", "known": path of an observation to be merged with, or None}.
    """
    subject = Subject.from_json(request["subject"])
    meter = Meter()
    tensors = find_needed_tensors(onnx.load(subject.model))
    known = _read(request["known"]) if request["known"] else None
    _load_kernels()
    with Observer(Path(subject.model), tensors, ObserverSpec()) as observer:
        meter.started()
        for batch in subject.batches(_BATCH, 0, request["images"]):
            observer.add(batch)
        observation = observer.observation()
    merged = merge_observations(known, observation) if known else observation
    Path(request["out"]).write_bytes(observation_to_bytes(merged))
    return meter.ended() | {"tensors": len(tensors), "images": observation.images}


def search(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Return {"milliseconds": {method: ms a tensor}, "amax": {tensor: by entropy}} of the observation at `observation`."""
    observation = _read(request["observation"])
    for method in DERIVED_METHODS:  # the first call loads compiled code
        table_from_observation(observation, method)
    count = max(len(observation.histograms), 1)
    took = {name: milliseconds(lambda name=name: table_from_observation(observation, name)) / count for name in DERIVED_METHODS}
    return {"milliseconds": took, "amax": table_from_observation(observation, "entropy").amax}


def _load_kernels() -> None:
    # They are loaded at their first call, which belongs to the start.
    none = np.zeros(0, np.int64)
    nothing = kernels.Regions(np.zeros(0, np.float32), none, none, np.zeros((0, 2), np.float32))
    counts = np.zeros((0, 2, kernels.COLUMNS), np.uint32)
    kernels.count_mergeable(nothing, np.zeros((0, 3), np.int64), counts, np.zeros((0, 2), np.int32))


def _read(path: str) -> Observation:
    return observation_from_bytes(Path(path).read_bytes())
