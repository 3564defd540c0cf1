"""Observe no more images than the thresholds need, and say how many sufficed."""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from app.inputs.batches import Batches
from app.observers.observing import Observer
from app.observers.until import observe_until
from app.quant.convergence import Convergence
from app.quant.drift_points import last_doubling, line_from_points, share_from_drift
from app.quant.observation import Observation
from app.spec import DERIVED_METHODS, CalibrationSpec
from app.worker.steps.drift import Drift, look_at

Report = Callable[[dict[str, Any]], None]


def observe_converging(
    observer: Observer, batches: Batches, calibration: CalibrationSpec, report: Report, drift: Drift | None
) -> tuple[Observation, dict[str, Any]]:
    """Return the observation and how it converged, as JSON values; drift, if any, looks whenever that is looked at.

    A log line tells of each look but the first.

    converged: whether a doubling moved no amax by more than `fraction` · images: how many were counted · of: how many
    there were · taken: how many were looked at, skipped ones included · methods: whose thresholds were watched ·
    curve: [{since, images, drift, tensor, method}], see `Convergence`. Raises what `observe` raises.
    """
    assert calibration.converge is not None
    methods = list(DERIVED_METHODS) if calibration.method == "auto" else [calibration.method]
    convergence = Convergence(methods, calibration.percentile, calibration.converge)

    def look(observation: Observation) -> bool:
        look_at(drift, [observation])
        is_still = convergence.look(observation)
        if convergence.curve:
            report({"log": line_from_points(convergence.curve[-1:])})
        return is_still

    with closing(iter(batches)) as stream:
        observation, is_still = observe_until(observer, stream, look, report)
    facts = {
        "converged": is_still,
        "fraction": calibration.converge,
        "images": observation.images,
        "of": batches.images,
        "taken": len(batches.used) + len(batches.skipped),
        "methods": methods,
        "curve": convergence.curve,
    }
    report({"log": _line(facts)})
    return observation, facts


def _line(facts: dict[str, Any]) -> str:
    moved = "".join(_moved(point) for point in last_doubling(facts["curve"]))
    if facts["converged"]:
        return f"{facts['images']} of {facts['of']} images sufficed{moved}"
    within = share_from_drift(facts["fraction"])
    return f"all {facts['images']} images were used: no doubling left every amax within {within}{moved}"


def _moved(point: Mapping[str, Any]) -> str:
    return f"; from {point['since']} to {point['images']} images {point['tensor']} moved {share_from_drift(point['drift'])}"
