"""Tables: list, look up, compare, import, and hand out in every runtime's format."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import Response

from app.api.context import InContext, InService
from app.api.documents import table_document
from app.api.downloads import blob_response, bytes_response
from app.api.importing import import_table
from app.api.paging import InPage, page_document
from app.api.quantizing import quantized_digest
from app.api.staging import stage_body, staging_folder
from app.db import results, uploads
from app.db.database import Session
from app.db.rows import DatasetRow, ModelRow, TableRow
from app.errors import SpecProblem, UnsupportedOption
from app.jobs.context import Service
from app.jobs.submit import lookup
from app.quant.ort_table import format_ort_table
from app.quant.table import Table, scales_from_table, table_from_json
from app.quant.trt_cache import format_trt_cache
from app.spec import FloatType, JobSpec, Placement, QuantizeSpec

router = APIRouter(prefix="/v1/tables")

_RAW = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
Name = Annotated[str | None, Query(max_length=100)]


@router.get("")
def list_tables(page: InPage, service: InService, model: Name = None, dataset: Name = None) -> dict[str, Any]:
    """List tables, newest first; `stale` is said relative to what the names in the query point to now."""
    with service.database.reading() as session:
        models = results.ids_of_name(session, ModelRow, model) if model else None
        datasets = results.ids_of_name(session, DatasetRow, dataset) if dataset else None
        rows, following = results.list_tables(session, page, models, datasets)
        items = [_document(session, row, model, dataset) for row in rows]
    return page_document(items, following)


@router.post("/lookup")
def look_up(spec: JobSpec, service: InService) -> dict[str, Any]:
    """Say whether a job's table is stored, or why it is not, without starting anything."""
    hits = lookup(service, spec)
    return {"hit": hits.table is not None, "table_id": hits.table.id if hits.table else None, "reason": hits.reason}


@router.post("/import", status_code=201, openapi_extra=_RAW)
async def post_import(
    request: Request,
    context: InContext,
    model: Annotated[str, Query(max_length=100)],
    min_coverage: Annotated[float, Query(ge=0, le=1)] = 0.5,
    fill: Literal["refuse"] = "refuse",
) -> dict[str, Any]:
    """Store a TensorRT cache text, or a table's JSON, as an imported table of a model."""
    async with staging_folder(context.service.settings) as folder:
        staged = await stage_body(request, context.service.settings, folder)
        return await import_table(context, model, staged, min_coverage)


@router.get("/{table_id}")
def get_table(table_id: str, service: InService, full: bool = False) -> dict[str, Any]:
    """Describe a table; with `full=1` its scales, too."""
    with service.database.reading() as session:
        row = results.get_table(session, table_id)
        document = _document(session, row, None, None)
    if full:
        document["scales"] = {name: float(scale) for name, scale in scales_from_table(load_table(service, row)).items()}
    return document


@router.get("/{table_id}/export")
def export(
    table_id: str,
    service: InService,
    format: Literal["trt", "json", "ort"] = "trt",  # noqa: A002 (the name in the HTTP interface)
    trt_version: Annotated[str | None, Query(max_length=20)] = None,
    algorithm: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Return the table as TRT cache text, as JSON, or as ONNX Runtime's calibration.flatbuffers.

    TRT cache text is headed 10.6.0 and EntropyCalibration2 unless asked otherwise; what TensorRT's own calibrator wrote
    comes as it is unless another header is asked for.
    """
    with service.database.reading() as session:
        row = results.get_table(session, table_id)
    if format == "json":
        body = service.blobs.fetch(row.body).read_bytes()
        return bytes_response(body, "application/json", f"{row.id}.json")
    if is_equalized(row):
        reason = "its ranges are those of the equalized model; take the Q/DQ model at /qdq, or calibrate without equalize"
        raise UnsupportedOption(option=f"format {format} of a table with quantize.equalize", reason=reason)
    scales = scales_from_table(load_table(service, row))
    if format == "ort":
        return bytes_response(format_ort_table(scales), "application/octet-stream", "calibration.flatbuffers")
    if (own := row.facts.get("native_cache")) and trt_version is None and algorithm is None:
        body = service.blobs.fetch(own).read_bytes()
        return bytes_response(body, "text/plain; charset=utf-8", f"{row.id}.cache")
    text = format_trt_cache(scales, trt_version or "10.6.0", algorithm or "EntropyCalibration2")
    return bytes_response(text.encode(), "text/plain; charset=utf-8", f"{row.id}.cache")


@router.get("/{table_id}/qdq")
async def get_qdq(
    table_id: str,
    request: Request,
    context: InContext,
    float_type: FloatType = "fp32",
    placement: Placement = "default",
    exclude: Annotated[tuple[str, ...], Query(max_length=1000)] = (),
) -> Response:
    """Return the table's model with Q/DQ pairs: for TensorRT 11, TensorRT-RTX and ONNX Runtime."""
    with context.service.database.reading() as session:
        row = results.get_table(session, table_id)
    try:
        quantize = QuantizeSpec(placement=placement, float_type=float_type, exclude=exclude, equalize=is_equalized(row))
    except ValidationError as error:
        raise SpecProblem(reason=f"exclude: {error.errors()[0]['msg']}") from error
    digest = await quantized_digest(context, row, quantize)
    return blob_response(request, context.service.blobs, digest, f"{row.id}.qdq.onnx")


@router.get("/{first}/diff/{second}")
async def diff(first: str, second: str, service: InService) -> dict[str, Any]:
    """Compare two tables tensor by tensor, the largest drift first; ratio = scale in the second / in the first."""
    return await asyncio.to_thread(_diff, service, first, second)


def load_table(service: Service, row: TableRow) -> Table:
    """Return the stored table. Raises BlobCorrupt, TableProblem."""
    return table_from_json(service.blobs.fetch(row.body).read_bytes())


def is_equalized(row: TableRow) -> bool:
    """Return whether a table was observed on the model with equalized weights."""
    return bool((row.facts.get("observation") or {}).get("equalize"))


def _diff(service: Service, first: str, second: str) -> dict[str, Any]:
    with service.database.reading() as session:
        rows = [results.get_table(session, table_id) for table_id in (first, second)]
    old, new = (scales_from_table(load_table(service, row)) for row in rows)
    both = sorted(old.keys() & new.keys())
    ratios = [{"tensor": name, "ratio": float(new[name]) / float(old[name])} for name in both]
    for entry in ratios:
        entry["drift"] = max(entry["ratio"], 1 / entry["ratio"]) - 1
    ratios.sort(key=lambda entry: (-entry["drift"], entry["tensor"]))
    missing = {"only_in_first": sorted(old.keys() - new.keys()), "only_in_second": sorted(new.keys() - old.keys())}
    return {"first": first, "second": second, "max_drift": ratios[0]["drift"] if ratios else None, "tensors": ratios, **missing}


def _document(session: Session, row: TableRow, model: str | None, dataset: str | None) -> dict[str, Any]:
    own_model = uploads.get_upload(session, ModelRow, row.model_id)
    own_dataset = uploads.get_upload(session, DatasetRow, row.dataset_id) if row.dataset_id else None
    names = {"model": own_model.name, "dataset": own_dataset.name if own_dataset else None}
    reasons = [_change("model", session, ModelRow, model or own_model.name, own_model.digest)]
    if own_dataset is not None:
        reasons.append(_change("dataset", session, DatasetRow, dataset or own_dataset.name, own_dataset.digest))
    return table_document(row, names, "; ".join(reason for reason in reasons if reason) or None)


def _change(kind: str, session: Session, rows: Any, name: str, digest: str) -> str | None:
    now = uploads.current_digest(session, rows, name)
    return None if now is None or now == digest else f"{kind} changed"
