"""Jobs: submit, wait, watch, cancel."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from sse_starlette import EventSourceResponse, JSONServerSentEvent

from app.api.context import InService
from app.api.documents import job_document, report_document
from app.api.paging import InPage, page_document
from app.db import jobs, results
from app.db.rows import JobRow, ReportRow
from app.errors import ReportMissing
from app.jobs.context import Service
from app.jobs.submit import Submitted, cancel, submit
from app.spec import JobSpec

router = APIRouter(prefix="/v1")

Wait = Annotated[float, Query(ge=0, le=60, description="seconds to hold the answer until the job ends")]
#: States in which nothing more happens to a job.
ENDED = ("succeeded", "failed", "cancelled")
#: A job that somebody waits for is looked at again after a twentieth of the time waited, or since it told something
#: last, within these bounds.
_LEAST_POLL_SECONDS, _MOST_POLL_SECONDS = 0.05, 0.25
_POLL_SHARE = 0.05


@router.post("/jobs", status_code=202)
async def post_job(spec: JobSpec, response: Response, service: InService, wait: Wait = 0) -> dict[str, Any]:
    """Submit a job; 202, or 200 when it has ended by the time of the answer. An identical live job is joined."""
    return await submit_and_wait(service, spec, response, wait)


@router.get("/jobs")
def list_jobs(
    page: InPage, service: InService, state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None
) -> dict[str, Any]:
    """List jobs, newest first."""
    with service.database.reading() as session:
        rows, following = jobs.list_jobs(session, page, state)
    return page_document([job_document(row) for row in rows], following)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, service: InService, wait: Wait = 0) -> dict[str, Any]:
    """Describe a job, now or as soon as it ends."""
    return job_document(await wait_for_job(service, job_id, wait))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, service: InService) -> dict[str, Any]:
    """End a job for everyone who joined it; one that has ended stays as it is."""
    return job_document(cancel(service, job_id))


@router.get("/jobs/{job_id}/report")
def get_report(job_id: str, service: InService) -> dict[str, Any]:
    """Return what the judge measured for this job."""
    return report_of_job(service, job_id)


@router.get("/jobs/{job_id}/events")
async def get_events(job_id: str, request: Request, service: InService) -> EventSourceResponse:
    """Stream a job's story as server-sent events: stage, progress, log, done. Last-Event-ID resumes."""
    await asyncio.to_thread(_load, service, job_id)
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isdecimal() and len(last) < 19 else 0
    return EventSourceResponse(_events(service, job_id, after), ping=15)


async def _events(service: Service, job_id: str, after: int) -> AsyncIterator[JSONServerSentEvent]:
    has_ended, told_at = False, time.monotonic()
    while True:
        rows = await asyncio.to_thread(_load_events, service, job_id, after)
        for row in rows:
            after, told_at = row.number, time.monotonic()
            yield JSONServerSentEvent(data=row.body, event=row.kind, id=str(row.number))
            if row.kind == "done":
                return
        if not rows:
            if has_ended:
                return
            # Looked at before the events are read again: what was written with the end is still sent.
            has_ended = (await asyncio.to_thread(_load, service, job_id)).state in ENDED
            await asyncio.sleep(0 if has_ended else _poll_seconds(time.monotonic() - told_at))


def report_of_job(service: Service, job_id: str) -> dict[str, Any]:
    """Return what the judge measured for a job. Raises NotFound."""
    with service.database.reading() as session:
        job = jobs.get_job(session, job_id)
        report = results.find_by_key(session, ReportRow, job.report_key) if job.report_key else None
        table = results.get_table(session, job.table_id) if job.table_id else None
        engine = results.get_engine(session, job.engine_id) if job.engine_id else None
    if report is None:
        raise _report_missing(job)
    return report_document(report.report, table, engine)


def _report_missing(job: JobRow) -> ReportMissing:
    reason = "it judged no engine" if job.state == "succeeded" else f"its state is {job.state}"
    address, what = f"/v1/jobs/{job.id}", "how it goes"
    if job.engine_id:
        address, what = f"/v1/engines/{job.engine_id}/report", "its engine"
    elif job.table_id:
        address, what = f"/v1/tables/{job.table_id}", "its images and drift"
    return ReportMissing(name=job.id, reason=reason, address=address, what=what)


async def submit_and_wait(service: Service, spec: JobSpec, response: Response, wait: float) -> dict[str, Any]:
    """Submit a job, hold the answer for up to `wait` seconds, and return its document: 200 if it has ended, else 202."""
    submitted: Submitted = await asyncio.to_thread(submit, service, spec)
    row = submitted.job
    if wait and row.state not in ENDED:
        row = await wait_for_job(service, row.id, wait)
    response.status_code = 200 if row.state in ENDED else 202
    response.headers["Location"] = f"/v1/jobs/{row.id}"
    return job_document(row, submitted.joined)


async def wait_for_job(service: Service, job_id: str, wait: float) -> JobRow:
    """Return a job as it is when it ends, or after `wait` seconds. Raises NotFound."""
    began = time.monotonic()
    while True:
        row = await asyncio.to_thread(_load, service, job_id)
        waited = time.monotonic() - began
        if row.state in ENDED or waited >= wait:
            return row
        await asyncio.sleep(min(_poll_seconds(waited), wait - waited))


def _poll_seconds(waited: float) -> float:
    return min(max(_LEAST_POLL_SECONDS, _POLL_SHARE * waited), _MOST_POLL_SECONDS)


def _load(service: Service, job_id: str) -> JobRow:
    with service.database.reading() as session:
        return jobs.get_job(session, job_id)


def _load_events(service: Service, job_id: str, after: int) -> list[Any]:
    with service.database.reading() as session:
        return jobs.list_events(session, job_id, after)
