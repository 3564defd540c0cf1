"""On which images a table was calibrated, as far as it tells: a computed one does, one that came from outside does not."""

from collections.abc import Mapping
from typing import Any

from app.resolved import ResolvedJob

#: What a key says of a table that tells nothing.
UNKNOWN = "unknown"


def calibration_from_facts(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a table's facts say of its images; None where they say nothing.

    dataset, listing: digests · max_images, converge: how they were chosen, as in the observation's key · taken: how many
    were looked at before it stopped, None for all.
    """
    observation = facts.get("observation")
    if not observation:
        return None
    chosen = {name: observation.get(name) for name in ("dataset", "listing", "max_images", "converge")}
    return chosen | {"taken": (facts.get("converge") or {}).get("taken")}


def early_stop(job: ResolvedJob, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return after how many of which images of the job's dataset a table's calibration stopped; None where it did not."""
    known = calibration_from_facts(facts)
    if known is None or not known["converge"] or job.dataset is None or known["dataset"] != job.dataset.digest:
        return None
    return {name: known[name] for name in ("max_images", "taken")}


def foreign_calibration(job: ResolvedJob, facts: Mapping[str, Any]) -> Any:
    """Return what of a table's images is not in the job's own keys; None where these are the job's calibration images."""
    known = calibration_from_facts(facts)
    if known is None:
        return UNKNOWN
    is_own = job.spec.table is None and job.dataset is not None and known["dataset"] == job.dataset.digest
    return None if is_own else {name: fact for name, fact in known.items() if name != "listing"}
