"""Tables: list, look up, compare, import, and hand out in every runtime's format."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, ValidationError
from starlette.responses import Response

from app.api.comparing import Compared, compared, running_response
from app.api.context import InContext, InService
from app.api.documents import table_document
from app.api.downloads import blob_response, bytes_response
from app.api.exporting import Header, coverage, ort_table, own_json, trt_cache
from app.api.filling import Measuring, check_measuring, import_table
from app.api.importing import Fill, Import, find_model
from app.api.paging import InPage, page_document
from app.api.quantizing import find_or_quantize, quantize_report
from app.api.staging import stage_body, staging_folder
from app.db import results, uploads
from app.db.database import Session
from app.db.rows import DatasetRow, JobRow, ModelRow, TableRow
from app.errors import SpecProblem
from app.errors.validation import words_from_errors
from app.jobs.context import Service
from app.jobs.resolve import find_equalizer, is_equalized
from app.jobs.submit import lookup
from app.keys import check_equalizer
from app.quant.table import Table, scales_from_table, table_from_json
from app.quant.table_diff import diff_scales
from app.spec import FloatType, Format, Frozen, JobSpec, Placement, QuantizeSpec

router = APIRouter(prefix="/v1/tables")

_RAW = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
Name = Annotated[str | None, Query(max_length=100)]


class ImportQuery(Frozen):
    """What `POST /v1/tables/import` is asked: see `app.api.importing` and `app.api.filling`."""

    model: str = Field(max_length=100)
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    fill: Fill = "refuse"
    extremes: bool = False
    dataset: str | None = Field(default=None, max_length=100)
    preprocess: str | None = Field(default=None, max_length=4096)
    wait: float = Field(default=60, ge=0, le=60)


class ExportQuery(Frozen):
    """What `/export` is asked: the form, and of TRT cache text the header."""

    format: Literal["trt", "json", "ort"] = "trt"
    trt_version: str | None = Field(default=None, max_length=20)
    algorithm: str | None = Field(default=None, max_length=64)


class QuantizeQuery(Frozen):
    """What `/qdq` is asked: the fields of a QuantizeSpec that a table does not decide."""

    float_type: FloatType = "fp32"
    placement: Placement = "default"
    asymmetric: bool = False
    format: Format = "int8"
    exclude: list[str] = Field(default=[], max_length=1000)


class ReportQuery(QuantizeQuery):
    """What `/qdq/report` is asked: with the job that compares that model with FP32 it tells the accuracy, too."""

    job: str | None = Field(default=None, max_length=100)
    wait: float = Field(default=60, ge=0, le=60)


InQuantize = Annotated[QuantizeQuery, Query()]


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
    response: Response,
    context: InContext,
    wanted: Annotated[ImportQuery, Query()],
) -> dict[str, Any]:
    """Store a TRT cache text, ONNX Runtime's table (any of its three files), ModelOpt's or ours as an imported one of a model.

    With fill=minmax-from-dataset or extremes=true (least and greatest values, for zero points) the answer is 202 and the
    job's document while the dataset is measured; send it again then.
    """
    measuring = Measuring(wanted.dataset, wanted.preprocess, wanted.wait)
    check_measuring(wanted.fill, wanted.extremes, measuring)
    async with staging_folder(context.service.settings) as folder:
        model = await asyncio.to_thread(find_model, context, wanted.model)
        staged = await stage_body(request, context.service.settings, folder)
        asked = Import(model, staged, wanted.min_coverage, wanted.fill, extremes=wanted.extremes)
        return await import_table(context, asked, measuring, response)


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
async def export(table_id: str, context: InContext, wanted: Annotated[ExportQuery, Query()]) -> Response:
    """Return the table as TRT cache text (which Polygraphy reads too), as JSON, or as ONNX Runtime's flatbuffers.

    TRT cache text is headed 10.6.0 and EntropyCalibration2 unless asked otherwise, whatever the method: TensorRT's
    calibrator that reads it takes its own algorithm alone. What TensorRT's own calibrator wrote comes as it is unless
    another header is asked for.
    """
    row = await asyncio.to_thread(find_table, context.service, table_id)
    if wanted.format == "json":
        body = await asyncio.to_thread(own_json, context, row)
        return bytes_response(body, "application/json", f"{row.id}.json")
    if wanted.format == "ort":
        body = await asyncio.to_thread(ort_table, context, row)
        return bytes_response(body, "application/octet-stream", "calibration.flatbuffers")
    text = await trt_cache(context, row, Header(wanted.trt_version, wanted.algorithm))
    return bytes_response(text, "text/plain; charset=utf-8", f"{row.id}.cache")


@router.get("/{table_id}/coverage")
async def get_coverage(table_id: str, context: InContext) -> dict[str, Any]:
    """Say which tensors TensorRT asks for when it builds from this table's cache, and for which it would miss a scale."""
    return await coverage(context, await asyncio.to_thread(find_table, context.service, table_id))


@router.get("/{table_id}/qdq")
async def get_qdq(table_id: str, request: Request, context: InContext, wanted: InQuantize) -> Response:
    """Return the table's model with Q/DQ pairs: for TensorRT 11, TensorRT-RTX and ONNX Runtime."""
    row = await asyncio.to_thread(find_table, context.service, table_id)
    quantized = await find_or_quantize(context, row, spec_for_table(wanted, row))
    return blob_response(request, context.service.blobs, quantized.body, f"{row.id}.qdq.onnx")


@router.get("/{table_id}/qdq/report")
async def get_qdq_report(
    table_id: str, response: Response, context: InContext, wanted: Annotated[ReportQuery, Query()]
) -> dict[str, Any]:
    """Say what is INT8 in the Q/DQ model and why the rest is not, and what changes against implicit quantization.

    With `job`, the one that a migration with images has started, `judge` is what it measured against FP32; the answer is
    202 and the job's document while it runs: send it again then.
    """
    row = await asyncio.to_thread(find_table, context.service, table_id)
    quantize = spec_for_table(wanted, row)
    judge = None
    if wanted.job is not None:
        judge = await compared(context.service, Compared(wanted.job, row, quantize), wanted.wait)
        if isinstance(judge, JobRow):
            return running_response(judge, response)
    return await quantize_report(context, row, quantize) | {"judge": judge}


@router.get("/{first}/diff/{second}")
async def diff(first: str, second: str, service: InService) -> dict[str, Any]:
    """Compare two tables tensor by tensor, the largest drift first; ratio = scale in the second / in the first."""
    return await asyncio.to_thread(_diff, service, first, second)


def load_table(service: Service, row: TableRow) -> Table:
    """Return the stored table. Raises BlobCorrupt, TableProblem."""
    return table_from_json(service.blobs.fetch(row.body).read_bytes())


def spec_for_table(wanted: QuantizeQuery, table: TableRow) -> QuantizeSpec:
    """Return how a model is quantized with a table. Raises SpecProblem, TableProblem where it was equalized otherwise."""
    check_equalizer(find_equalizer(table))
    return quantize_spec(wanted, is_equalized(table))


def quantize_spec(wanted: QuantizeQuery, equalize: bool) -> QuantizeSpec:
    """Return how a model is quantized with a table, by whether that was observed on the equalized model. Raises SpecProblem."""
    chosen = wanted.model_dump(include=set(QuantizeQuery.model_fields))
    try:
        return QuantizeSpec.model_validate(chosen | {"equalize": equalize})
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecProblem(reason=words_from_errors([first | {"loc": first["loc"][:1]}])) from error


def find_table(service: Service, table_id: str) -> TableRow:
    """Return a table. Raises NotFound."""
    with service.database.reading() as session:
        return results.get_table(session, table_id)


def _diff(service: Service, first: str, second: str) -> dict[str, Any]:
    with service.database.reading() as session:
        rows = [results.get_table(session, table_id) for table_id in (first, second)]
    old, new = (scales_from_table(load_table(service, row)) for row in rows)
    return {"first": first, "second": second} | diff_scales(old, new)


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
