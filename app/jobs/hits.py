"""What of a job is known already, and why the rest is not."""

from dataclasses import dataclass
from typing import Any, TypeVar

from app import keys
from app.blobs.store import BlobStore
from app.db import results
from app.db.database import Session
from app.db.rows import EngineRow, ObservationRow, ReportRow, TableRow
from app.resolved import ResolvedJob
from app.worker.files import read_packs
from app.worker.known import find_known
from app.worker.stages.build import engine_key
from app.worker.stages.derive import find_job_table
from app.worker.stages.exclude import find_excluding

Found = TypeVar("Found", ObservationRow, TableRow)

#: Facts of an observation in the order in which they are named as the reason of a miss.
_REASONS = (
    "preprocess",
    "grid",
    "batch_size",
    "max_images",
    "converge",
    "observe",
    "equalize",
    "bad_images",
    "observer",
    "decoder",
)


@dataclass(frozen=True)
class Hits:
    """The results of a job that are stored already."""

    observation: ObservationRow | None = None
    table: TableRow | None = None
    engine: EngineRow | None = None
    report: ReportRow | None = None
    reason: str | None = None

    def is_full(self, job: ResolvedJob) -> bool:
        """Whether nothing is left to do for the job."""
        table = self.table is not None or job.spec.calibration is None
        engine = self.engine is not None or job.spec.engine is None
        return table and engine and (self.report is not None or not job.is_judged)

    def to_json(self, job: ResolvedJob) -> dict[str, Any]:
        """Return the `cache` of a job document; null where the job has no such stage."""
        calibrated, built = job.spec.calibration is not None, job.spec.engine is not None
        return {
            "observation": _word(self.observation or self.table) if calibrated else None,
            "table": _word(self.table) if calibrated else None,
            "engine": _word(self.engine) if built else None,
            "reason": self.reason,
        }


def find_hits(session: Session, blobs: BlobStore, job: ResolvedJob) -> Hits:
    """Look the job's keys up, in the order of its stages."""
    observation = table = None
    if job.spec.calibration is not None:
        if job.spec.table is None:
            observation = results.find_by_key(session, ObservationRow, keys.observation_key(job))
        table = find_job_table(session, job)
    observation, table = _if_there(blobs, observation), _if_there(blobs, table)
    if table is not None and job.spec.is_quantized:
        excluding = find_excluding(session, blobs, job, table)
        if excluding is None:
            return Hits(observation, table, reason="what stays float was never measured")
        job = excluding
    engine = _find_engine(session, job, table)
    engine = engine if engine and blobs.has(engine.plan) else None
    is_judged = engine is not None and job.is_judged
    report = None
    if engine and table and is_judged:
        report = results.find_by_key(session, ReportRow, keys.judge_key(job, engine.key, table.facts))
    hits = Hits(observation, table, engine, report)
    return Hits(observation, table, engine, report, None if hits.is_full(job) else _reason(session, blobs, job, hits))


def _if_there(blobs: BlobStore, row: Found | None) -> Found | None:
    return row if row is not None and blobs.has(row.body) else None


def _find_engine(session: Session, job: ResolvedJob, table: TableRow | None) -> EngineRow | None:
    if job.spec.engine is None or (job.spec.is_quantized and table is None):
        return None
    return results.find_engine(session, engine_key(job, table if job.spec.is_quantized else None))


def _word(row: object) -> str:
    return "hit" if row is not None else "miss"


def _reason(session: Session, blobs: BlobStore, job: ResolvedJob, hits: Hits) -> str:
    if job.spec.calibration is None or hits.table is not None or job.spec.table is not None:
        return "engine never built" if hits.engine is None else "judge changed"
    if hits.observation is not None:
        return _method_reason(session, job)
    wanted = keys.observation_facts(job)
    earlier = results.recent_observations(session, job.model.name)
    if not earlier:
        return "never computed"
    nearest = min(earlier, key=lambda row: _distance(row.facts, wanted))
    reason = _changes(blobs, nearest.facts, wanted)
    known = find_known(session, blobs, job)
    return f"{reason}; {known.told}" if known else reason


def _method_reason(session: Session, job: ResolvedJob) -> str:
    tables = results.find_tables_of_observation(session, keys.observation_key(job))
    assert job.spec.calibration is not None
    wanted = job.spec.calibration.method
    others = [table.method for table in tables if table.method != wanted]
    if any(table.method == wanted for table in tables):
        return "quantize or judge changed" if wanted == "auto" else "method parameters changed"
    return f"method changed: {others[0]} -> {wanted}" if others else "never derived"


def _distance(old: dict[str, Any], new: dict[str, Any]) -> int:
    return sum(old.get(name) != new.get(name) for name in ("model", "dataset", *_REASONS))


def _changes(blobs: BlobStore, old: dict[str, Any], new: dict[str, Any]) -> str:
    changes = ["model changed"] if old["model"] != new["model"] else []
    if old["dataset"] != new["dataset"]:
        changes.append(_dataset_change(blobs, old["listing"], new["listing"]))
    for name in _REASONS:
        if old.get(name) != new.get(name):
            changes.append(_change(name, old.get(name), new.get(name)))
    return "; ".join(changes)


def _change(name: str, old: Any, new: Any) -> str:
    if name == "converge":
        return f"converge changed: {_said_of_stop(old)} -> {_said_of_stop(new)}"
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{name} changed: {', '.join(sorted(field for field in old | new if old.get(field) != new.get(field)))}"
    return f"{name.replace('_', ' ')} changed: {_said(old)} -> {_said(new)}"


def _said(value: Any) -> str:
    return "default" if value is None else str(value)


def _said_of_stop(converge: dict[str, Any] | None) -> str:
    if converge is None:
        return "none"
    percentile = f"{converge['percentile']:g}" if "percentile" in converge else ""
    return f"{converge['fraction']:g} for {converge['method']} {percentile}".rstrip()


def _dataset_change(blobs: BlobStore, old: str, new: str) -> str:
    before, after = read_packs(blobs, old).keys(), read_packs(blobs, new).keys()
    added, removed = len(after - before), len(before - after)
    return f"dataset changed (+{added} -{removed} images)"
