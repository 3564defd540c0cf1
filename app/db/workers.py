"""Workers and their claims: who lives is decided by the database's clock alone."""

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.database import clock
from app.db.rows import ClaimRow, JobRow, WorkerRow


def beat(session: Session, row: WorkerRow) -> None:
    """Say that a worker lives, now."""
    row.beat = clock(session)
    session.merge(row)


def remove_worker(session: Session, worker_id: str) -> None:
    """Forget a worker that ended or died."""
    session.execute(sa.delete(WorkerRow).where(WorkerRow.id == worker_id))


def list_workers(session: Session) -> list[tuple[WorkerRow, float]]:
    """Return every known worker with the age of its heartbeat in seconds."""
    now = clock(session)
    rows = session.scalars(sa.select(WorkerRow).order_by(WorkerRow.started_at))
    return [(row, max(0.0, now - row.beat)) for row in rows]


def running_jobs(session: Session) -> dict[str, str]:
    """Return {worker id: job id} of the jobs that run now."""
    rows = session.execute(sa.select(JobRow.worker_id, JobRow.id).where(JobRow.state == "running"))
    return {worker_id: job_id for worker_id, job_id in rows if worker_id}


def claim_step(session: Session, key: str, job_id: str, attempt: int) -> bool:
    """Take a step for this attempt; False while another attempt, of a worker that lives, works on it.

    A job that was recovered from a dead worker runs by its row until another takes it up. That one may be waiting here.
    """
    claim = session.get(ClaimRow, key, with_for_update=True)
    if claim is not None and claim.job_id == job_id and claim.attempt > attempt:
        return False
    if claim is not None and (claim.job_id, claim.attempt) != (job_id, attempt):
        owner = session.get(JobRow, claim.job_id)
        if owner is not None and owner.id != job_id and owner.attempt == claim.attempt and _is_worked_on(session, owner):
            return False
        claim.job_id, claim.attempt = job_id, attempt
        return True
    try:
        with session.begin_nested():
            session.merge(ClaimRow(key=key, job_id=job_id, attempt=attempt))
    except IntegrityError:
        return False
    return True


def _is_worked_on(session: Session, job: JobRow) -> bool:
    return job.state == "running" and session.get(WorkerRow, job.worker_id) is not None


def drop_claim(session: Session, key: str, job_id: str, attempt: int) -> None:
    """Give a step up, done or not; a claim that another attempt has taken over stays."""
    mine = (ClaimRow.key == key, ClaimRow.job_id == job_id, ClaimRow.attempt == attempt)
    session.execute(sa.delete(ClaimRow).where(*mine))
