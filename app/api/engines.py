"""Engines: metadata, plan bytes, the judge's report."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.context import InService
from app.api.documents import engine_document, report_document
from app.api.downloads import blob_response
from app.api.paging import InPage, page_document
from app.db import results
from app.errors import NotFound

router = APIRouter(prefix="/v1/engines")

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
def get_plan(engine_id: str, request: Request, service: InService) -> Response:
    """Return the plan's bytes: strong ETag = digest, Range."""
    with service.database.reading() as session:
        row = results.get_engine(session, engine_id)
    return blob_response(request, service.blobs, row.plan, f"{row.id}.{_ENDINGS.get(row.backend, 'plan')}")


@router.get("/{engine_id}/report")
def get_report(engine_id: str, service: InService) -> dict[str, Any]:
    """Return what the judge measured of this engine last."""
    with service.database.reading() as session:
        engine = results.get_engine(session, engine_id)
        row = results.latest_report(session, engine.id)
        table = results.get_table(session, engine.table_id) if engine.table_id else None
    if row is None:
        raise NotFound(kind="report", name=engine_id)
    return report_document(row.report, table, engine)
