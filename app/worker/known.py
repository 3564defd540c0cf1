"""What an earlier observation spares: that of a part of the images is merged with the observation of the rest, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app import keys
from app.blobs.store import BlobStore
from app.db import results
from app.db.database import Session
from app.db.rows import ObservationRow
from app.errors import BlobCorrupt
from app.resolved import ResolvedJob
from app.worker.files import read_packs

#: Facts in which the two may differ. Where no image was skipped, the rule of what to do with bad ones changed nothing.
#: An early stop that needed all images changed nothing either.
_FREE = frozenset({"dataset", "listing", "bad_images", "converge"})
#: A listing is read for each; of more candidates the largest are compared.
_MOST_COMPARED = 4


@dataclass(frozen=True)
class Known:
    """An observation of `images` of a job's images; `added` more are in `packs` (their digests)."""

    row: ObservationRow
    images: int
    added: int
    packs: tuple[str, ...]

    @property
    def told(self) -> str:
        """One line for people."""
        return f"merging {self.images} known images with {self.added} added"


def find_known(session: Session, blobs: BlobStore, job: ResolvedJob) -> Known | None:
    """Return the observation that spares most of the job's images, of equals the newest; None where none can be merged.

    Bins of TensorRT's grid, a choice of images (max_images) and an early stop (converge) are functions of the whole
    set, so these are observed from scratch; so is a set from which an image was removed or replaced. What an early stop
    saw that needed all of its images is known like any other.
    """
    facts = keys.observation_facts(job)
    if facts["grid"] != "mergeable" or facts["max_images"] is not None or facts["converge"] is not None:
        return None
    rows = [row for row in results.newest_observations(session, job.model.digest) if _is_like(row, facts)]
    if not rows:
        return None
    wanted = read_packs(blobs, facts["listing"])
    fitting = [row for row in rows if row.report["images"] <= len(wanted)]
    for row in sorted(fitting, key=lambda row: row.report["images"], reverse=True)[:_MOST_COMPARED]:
        known = _find_packs(blobs, row.facts["listing"])
        if known is not None and known.keys() <= wanted.keys() and row.report["images"] == len(known):
            return _known(row, known, wanted)
    return None


def _known(row: ObservationRow, known: Mapping[Any, str], wanted: Mapping[Any, str]) -> Known:
    added = wanted.keys() - known.keys()
    return Known(row, len(known), len(added), tuple(sorted({wanted[file] for file in added})))


def _is_like(row: ObservationRow, facts: Mapping[str, Any]) -> bool:
    names = (row.facts.keys() | facts.keys()) - _FREE
    # Of a model that computes something of several images together, parts are no part of the whole.
    can_merge = not row.report["skipped"] and not row.report.get("mixed") and _is_whole(row.report.get("converge"))
    return can_merge and all(row.facts.get(name) == facts.get(name) for name in names)


def _is_whole(converge: Mapping[str, Any] | None) -> bool:
    return converge is None or converge["images"] == converge["of"]


def _find_packs(blobs: BlobStore, listing: str) -> dict[tuple[str, str], str] | None:
    try:
        return read_packs(blobs, listing)
    except BlobCorrupt:
        return None  # the job in hand does not need these bytes
