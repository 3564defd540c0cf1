"""Submit a job: resolve it, answer from the cache if all is known, else commit the row and then enqueue it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app import keys
from app.db import jobs
from app.db.rows import JobRow, new_id
from app.errors import GateMissed, Problem
from app.jobs.context import Service
from app.jobs.hits import Hits, find_hits
from app.jobs.resolve import Fleet, JobRows, live_fleet, resolve_job, resolve_rows
from app.quant.judge import check_gate
from app.resolved import ResolvedJob
from app.spec import JobSpec
from app.worker.warnings import job_warnings

log = structlog.get_logger()

#: A job that comes before the server's own worker is up waits so long for it.
_START_SECONDS = 60


@dataclass(frozen=True)
class Submitted:
    """A job's row, and whether it was live already."""

    job: JobRow
    joined: bool


def submit(service: Service, spec: JobSpec) -> Submitted:
    """Store the job and hand it to its queue; a job that is all known ends at once.

    Raises what `resolve_job` raises. The job exists as soon as this returns, whatever happens to this process.
    """
    with service.database.reading() as session:
        fleet = live_fleet(session, service.settings)
        job, queue = resolve_job(session, spec, fleet)
        hits = find_hits(session, service.blobs, job)
    row = _row(job, queue, hits)
    row.wait_until = _wait_until(job, queue, fleet)
    if hits.is_full(job):
        _answer(row, job, hits)
    with service.database.transaction() as session:
        row, joined = jobs.add_job(session, row)
    if row.state == "queued" and not joined:
        _enqueue(service, row)
    return Submitted(row, joined)


def check(service: Service, spec: JobSpec, rows: JobRows) -> None:
    """Raise what `submit` would raise for uploads that are not stored yet."""
    with service.database.reading() as session:
        resolve_rows(spec, rows, live_fleet(session, service.settings))


def lookup(service: Service, spec: JobSpec) -> Hits:
    """Say what is known of a job without starting it. Raises what `resolve_job` raises, but for a missing worker."""
    patient = spec.model_copy(update={"wait_for_worker_seconds": 1})
    with service.database.reading() as session:
        fleet = live_fleet(session, service.settings)
        job, _ = resolve_job(session, patient, fleet)
        return find_hits(session, service.blobs, job)


def cancel(service: Service, job_id: str) -> JobRow:
    """End a live job as cancelled, for everyone who joined it; one that has ended stays as it is. Raises NotFound."""
    with service.database.transaction() as session:
        jobs.get_job(session, job_id)
        was_live = jobs.cancel_job(session, job_id)
    if was_live:
        service.queue.cancel(job_id)
    with service.database.reading() as session:
        return jobs.get_job(session, job_id)


def _wait_until(job: ResolvedJob, queue: str, fleet: Fleet) -> datetime | None:
    """Say how long the job waits for a worker; None where there is one, which may be gone for a while and come back."""
    if queue in fleet.queues:
        return None
    start_seconds = _START_SECONDS if fleet.is_starting else 0
    return jobs.now() + timedelta(seconds=max(job.spec.wait_for_worker_seconds, start_seconds))


def _row(job: ResolvedJob, queue: str, hits: Hits) -> JobRow:
    return JobRow(
        id=new_id("job"), key=keys.job_key(job), state="queued", queue=queue, priority=job.spec.priority,
        resolved=job.model_dump(mode="json"), cache=hits.to_json(job), warnings=[], attempt=0, crashes=0, progress_done=0,
        created_at=jobs.now(),
    )  # fmt: skip


def _answer(row: JobRow, job: ResolvedJob, hits: Hits) -> None:
    row.state, row.ended_at = "succeeded", row.created_at
    row.table_id = hits.table.id if hits.table else None
    row.engine_id = hits.engine.id if hits.engine else None
    row.warnings = job_warnings(hits.table.facts if hits.table else {}, hits.report.report if hits.report else None)
    if hits.report is None:
        return
    row.report_key = hits.report.key
    try:
        if job.spec.judge.gate:
            check_gate(hits.report.report, job.spec.judge.gate)
    except GateMissed as problem:
        row.state, row.error = "failed", problem.to_job_error()


def _enqueue(service: Service, row: JobRow) -> None:
    try:
        service.queue.put(row.id, row.queue, row.priority)
    except Problem as problem:
        log.warning("enqueued later by the caretaker", job=row.id, problem=problem.slug)
