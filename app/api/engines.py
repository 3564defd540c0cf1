"""Engines: metadata, plan bytes, the judge's report."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from app.api.context import InService
from app.api.documents import engine_document, job_document, report_document
from app.api.downloads import blob_response
from app.api.paging import InPage, page_document
from app.db import results
from app.engines.targets import Target, find_mismatch
from app.errors import EngineDriverTooOld, EngineTargetMismatch
from app.jobs.rebuild import rebuild
from app.spec import ComputeCapability, DriverVersion, TensorRtVersion

router = APIRouter(prefix="/v1/engines")


def _target(
    compute_capability: ComputeCapability | None = None,
    tensorrt_version: TensorRtVersion | None = None,
    driver: DriverVersion | None = None,
) -> Target:
    return Target(compute_capability, tensorrt_version, driver)


InTarget = Annotated[Target, Depends(_target)]
_ENDINGS = {"onnxruntime": "onnx"}


@router.get("")
def list_engines(page: InPage, service: InService) -> dict[str, Any]:
    """List engines, newest first."""
    with service.database.reading() as session:
        rows, following = results.list_engines(session, page)
    return page_document([engine_document(row) for row in rows], following)


@router.get("/{engine_id}")
def get_engine(engine_id: str, service: InService) -> dict[str, Any]:
    """Describe an engine: what built it, for what, and which layers run in which precision."""
    with service.database.reading() as session:
        return engine_document(results.get_engine(session, engine_id))


@router.head("/{engine_id}/plan", include_in_schema=False)
@router.get("/{engine_id}/plan")
def get_plan(engine_id: str, request: Request, service: InService, target: InTarget) -> Response:
    """Return the plan's bytes: strong ETag = digest, Range; 409 where it does not load on the target.

    With a rebuild link, but for a driver that is too old: the same worker would build the same plan.
    """
    with service.database.reading() as session:
        row = results.get_engine(session, engine_id)
    if built := find_mismatch(row.facts, replace(target, driver=None)):
        raise EngineTargetMismatch(engine=row.id, built=built, rebuild=_rebuild_link(row.id, target))
    if built := find_mismatch(row.facts, target):
        raise EngineDriverTooOld(engine=row.id, built=built, rebuild=None)
    return blob_response(request, service.blobs, row.plan, f"{row.id}.{_ENDINGS.get(row.backend, 'plan')}")


@router.post("/{engine_id}/rebuild", status_code=202)
async def post_rebuild(
    engine_id: str,
    target: InTarget,
    response: Response,
    service: InService,
    wait_for_worker_seconds: Annotated[int, Query(ge=0, le=86_400)] = 0,
) -> dict[str, Any]:
    """Submit the job that built this engine for another GPU or TensorRT version; answers as `POST /v1/jobs` does."""
    submitted = await asyncio.to_thread(rebuild, service, engine_id, target, wait_for_worker_seconds)
    response.status_code = 202 if submitted.job.ended_at is None else 200
    response.headers["Location"] = f"/v1/jobs/{submitted.job.id}"
    return job_document(submitted.job, submitted.joined)


@router.get("/{engine_id}/report")
def get_report(engine_id: str, service: InService) -> dict[str, Any]:
    """Return what the judge measured of this engine last, its sizes, its layers by precision, and why some are float."""
    with service.database.reading() as session:
        engine = results.get_engine(session, engine_id)
        row = results.latest_report(session, engine.id)
        table = results.get_table(session, engine.table_id) if engine.table_id else None
    return report_document(row.report if row else {}, table, engine)


def _rebuild_link(engine_id: str, target: Target) -> str:
    wanted = {"compute_capability": target.compute_capability, "tensorrt_version": target.tensorrt_version}
    asked = urlencode({name: value for name, value in wanted.items() if value})
    return f"/v1/engines/{engine_id}/rebuild" + (f"?{asked}" if asked else "")
