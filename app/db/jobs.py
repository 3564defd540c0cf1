"""Jobs: one conditional UPDATE a change, fenced by the attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.pages import Page, page_from_rows
from app.db.rows import LIVE_STATES, JobEventRow, JobRow
from app.errors import NotFound


@dataclass(frozen=True)
class Fence:
    """The right to write: this attempt of this job."""

    job_id: str
    attempt: int


def get_job(session: Session, job_id: str) -> JobRow:
    """Return the job. Raises NotFound."""
    row = session.get(JobRow, job_id)
    if row is None:
        raise NotFound(kind="job", name=job_id)
    return row


def find_job_of_engine(session: Session, engine_id: str) -> JobRow | None:
    """Return the newest job that gave this engine."""
    given = sa.select(JobRow).where(JobRow.engine_id == engine_id)
    return session.scalar(given.order_by(JobRow.created_at.desc()).limit(1))


def add_job(session: Session, row: JobRow) -> tuple[JobRow, bool]:
    """Store a new job, or find the live one of the same key. Returns (row, joined)."""
    try:
        with session.begin_nested():
            session.add(row)
        add_event(session, row.id, "stage", {"state": row.state, "stage": None})
        if row.state not in LIVE_STATES:  # all was known: it ended as it came
            add_event(session, row.id, "done", {"state": row.state, "error": row.error})
        return row, False
    except IntegrityError:
        live = session.scalar(sa.select(JobRow).where(JobRow.key == row.key, JobRow.state.in_(LIVE_STATES)))
        if live is None:  # it ended between the two statements
            return add_job(session, row)
        return live, True


def list_jobs(session: Session, page: Page, state: str | None) -> tuple[list[JobRow], str | None]:
    """Return one page of jobs, newest first, and the cursor of the next."""
    query = sa.select(JobRow).where(JobRow.state == state) if state else sa.select(JobRow)
    return page_from_rows(session, JobRow, query, page)


def list_live_jobs(session: Session) -> list[JobRow]:
    """Return the jobs that have not ended, oldest first."""
    return list(session.scalars(sa.select(JobRow).where(JobRow.state.in_(LIVE_STATES)).order_by(JobRow.created_at)))


def start_attempt(session: Session, job_id: str, worker_id: str) -> JobRow | None:
    """Raise the fence and take the job, unless it has ended. A job found running has lost its worker."""
    row = session.get(JobRow, job_id, with_for_update=True)
    if row is None or row.state not in LIVE_STATES:
        return None
    row.crashes += row.state == "running"
    row.attempt += 1
    row.state, row.worker_id = "running", worker_id
    row.started_at = row.started_at or now()
    return row


def change_job(session: Session, fence: Fence, **values: Any) -> bool:
    """Change a running job, if the fence still holds. Returns whether it did."""
    mine = (JobRow.id == fence.job_id, JobRow.attempt == fence.attempt, JobRow.state == "running")
    # typed as Result[Any], though an UPDATE always gives a cursor with its row count
    return bool(session.execute(sa.update(JobRow).where(*mine).values(**values)).rowcount)  # type: ignore[attr-defined]


def end_job(session: Session, fence: Fence, state: str, **values: Any) -> bool:
    """End a running job, if the fence still holds."""
    if not change_job(session, fence, state=state, stage=None, ended_at=now(), **values):
        return False
    add_event(session, fence.job_id, "done", {"state": state, "error": values.get("error")})
    return True


def cancel_job(session: Session, job_id: str) -> bool:
    """End a live job from outside its worker. Returns whether it was live."""
    return _end_unfenced(session, job_id, LIVE_STATES, "cancelled", None)


def fail_queued_job(session: Session, job_id: str, error: dict[str, Any]) -> bool:
    """End a job that no worker will take. Returns whether it was queued: one may have taken it just now."""
    return _end_unfenced(session, job_id, ("queued",), "failed", error)


def _end_unfenced(session: Session, job_id: str, states: Sequence[str], state: str, error: dict[str, Any] | None) -> bool:
    values = {"state": state, "error": error, "ended_at": now(), "stage": None}
    ends = (JobRow.id == job_id, JobRow.state.in_(states))
    if not session.execute(sa.update(JobRow).where(*ends).values(**values)).rowcount:  # type: ignore[attr-defined]
        return False
    add_event(session, job_id, "done", {"state": state, "error": error})
    return True


def move_job(session: Session, job_id: str, queue: str) -> bool:
    """Give a queued job to another queue, whose worker is there. Returns whether it was queued."""
    queued = (JobRow.id == job_id, JobRow.state == "queued")
    moved = session.execute(sa.update(JobRow).where(*queued).values(queue=queue, wait_until=None))
    return bool(moved.rowcount)  # type: ignore[attr-defined]


def set_wait(session: Session, job_id: str, queue: str, until: datetime | None) -> bool:
    """Let a job that is queued there wait for a worker until then, or (None) no more. Returns whether that is new."""
    queued = (JobRow.id == job_id, JobRow.state == "queued", JobRow.queue == queue)
    is_new = JobRow.wait_until.is_not(None) if until is None else JobRow.wait_until.is_(None)
    return bool(session.execute(sa.update(JobRow).where(*queued, is_new).values(wait_until=until)).rowcount)  # type: ignore[attr-defined]


def release_job(session: Session, fence: Fence) -> bool:
    """Give a job back unfinished, without counting a crash: its worker is shutting down."""
    return change_job(session, fence, state="queued", stage=None, worker_id=None)


def add_event(session: Session, job_id: str, kind: str, body: dict[str, Any]) -> None:
    """Append one line to a job's story."""
    session.add(JobEventRow(job_id=job_id, kind=kind, body=body))


def list_events(session: Session, job_id: str, after: int, limit: int = 500) -> list[JobEventRow]:
    """Return the events of a job after a number, in order."""
    wanted = (JobEventRow.job_id == job_id, JobEventRow.number > after)
    return list(session.scalars(sa.select(JobEventRow).where(*wanted).order_by(JobEventRow.number).limit(limit)))


def now() -> datetime:
    return datetime.now(UTC)
