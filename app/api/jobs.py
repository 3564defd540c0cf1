"""Jobs: submit, wait, watch, cancel."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from sse_starlette import EventSourceResponse, JSONServerSentEvent

from app.api.context import InContext, InService
from app.api.documents import job_document
from app.api.forms import stage_form
from app.api.inspection import store_dataset, store_model
from app.api.paging import InPage, page_document
from app.api.staging import Staged, staging_folder
from app.db import jobs, results
from app.db.rows import JobRow, ReportRow
from app.errors import NotFound, SpecProblem
from app.jobs.context import Service
from app.jobs.submit import Submitted, cancel, submit
from app.spec import JobSpec

router = APIRouter(prefix="/v1")

Wait = Annotated[float, Query(ge=0, le=60, description="seconds to hold the answer until the job ends")]
_ENDED = ("succeeded", "failed", "cancelled")
_POLL_SECONDS = 0.05
_MAX_POLL_SECONDS = 0.25
_FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object", "required": ["model", "images"]}}}}}


@router.post("/jobs", status_code=202)
async def post_job(spec: JobSpec, response: Response, service: InService, wait: Wait = 0) -> dict[str, Any]:
    """Submit a job; 202, or 200 when it has ended by the time of the answer. An identical live job is joined."""
    return await _submit_and_wait(service, spec, response, wait)


@router.post("/engines", status_code=202, openapi_extra=_FORM)
async def post_engine(request: Request, response: Response, context: InContext, wait: Wait = 0) -> dict[str, Any]:
    """Do it all at once: upload `model` and `images`, submit `spec` (JSON without model and dataset)."""
    settings = context.service.settings
    async with staging_folder(settings) as folder:
        form = await stage_form(request, settings, folder, ("model", "images", "spec"))
        spec = _spec_from_form(form.fields.get("spec", "{}"))
        names = {name: _slug(form.stem(name), form.file(name)) for name in ("model", "images")}
        await store_model(context, names["model"], await _apart(form.file("model"), "m"))
        await store_dataset(context, names["images"], await _apart(form.file("images"), "i"))
    spec = spec.model_copy(update={"model": names["model"], "dataset": names["images"]})
    return await _submit_and_wait(context.service, spec, response, wait)


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
    return job_document(await _wait_for(service, job_id, wait))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, service: InService) -> dict[str, Any]:
    """End a job for everyone who joined it; one that has ended stays as it is."""
    return job_document(cancel(service, job_id))


@router.get("/jobs/{job_id}/report")
def get_report(job_id: str, service: InService) -> dict[str, Any]:
    """Return what the judge measured for this job."""
    with service.database.reading() as session:
        key = jobs.get_job(session, job_id).report_key
        report = results.find_by_key(session, ReportRow, key) if key else None
    if report is None:
        raise NotFound(kind="report", name=job_id)
    return report.report


@router.get("/jobs/{job_id}/events")
async def get_events(job_id: str, request: Request, service: InService) -> EventSourceResponse:
    """Stream a job's story as server-sent events: stage, progress, log, done. Last-Event-ID resumes."""
    await asyncio.to_thread(_load, service, job_id)
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isdecimal() and len(last) < 19 else 0
    return EventSourceResponse(_events(service, job_id, after), ping=15)


async def _events(service: Service, job_id: str, after: int) -> AsyncIterator[JSONServerSentEvent]:
    while True:
        rows = await asyncio.to_thread(_load_events, service, job_id, after)
        for row in rows:
            after = row.number
            yield JSONServerSentEvent(data=row.body, event=row.kind, id=str(row.number))
            if row.kind == "done":
                return
        if not rows:
            if (await asyncio.to_thread(_load, service, job_id)).state in _ENDED:
                return
            await asyncio.sleep(_MAX_POLL_SECONDS)


async def _submit_and_wait(service: Service, spec: JobSpec, response: Response, wait: float) -> dict[str, Any]:
    submitted: Submitted = await asyncio.to_thread(submit, service, spec)
    row = submitted.job
    if wait and row.state not in _ENDED:
        row = await _wait_for(service, row.id, wait)
    response.status_code = 200 if row.state in _ENDED else 202
    response.headers["Location"] = f"/v1/jobs/{row.id}"
    return job_document(row, submitted.joined)


async def _wait_for(service: Service, job_id: str, wait: float) -> JobRow:
    until = time.monotonic() + wait
    pause = _POLL_SECONDS
    while True:
        row = await asyncio.to_thread(_load, service, job_id)
        left = until - time.monotonic()
        if row.state in _ENDED or left <= 0:
            return row
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _MAX_POLL_SECONDS)


def _load(service: Service, job_id: str) -> JobRow:
    with service.database.reading() as session:
        return jobs.get_job(session, job_id)


def _load_events(service: Service, job_id: str, after: int) -> list[Any]:
    with service.database.reading() as session:
        return jobs.list_events(session, job_id, after)


def _spec_from_form(text: str) -> JobSpec:
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or {"model", "dataset"} & value.keys():
            raise SpecProblem(reason="the field spec is a JSON object without model and dataset, which are in the form")
        return JobSpec.model_validate(value | {"model": "form", "dataset": "form"})
    except ValidationError as error:
        found = error.errors()[0]
        raise SpecProblem(reason=f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise SpecProblem(reason="the field spec is not JSON") from error


def _slug(stem: str, staged: Staged) -> str:
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:60]
    return slug or f"upload-{staged.sha256[:12]}"


async def _apart(staged: Staged, folder: str) -> Staged:
    # Each upload is inspected in a folder of its own.
    apart = staged.path.parent / folder
    apart.mkdir()
    return Staged(staged.path.rename(apart / "body"), staged.sha256, staged.size)
