"""POST /v1/tables/migrate: a model and its old calibration cache in one form, the Q/DQ model out."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.api.context import Context, InContext
from app.api.downloads import blob_response
from app.api.forms import Fields, Form, stage_form
from app.api.importing import Import, read_import, save_import
from app.api.inspection import inspect_model, save_model
from app.api.one_shot import asked_model, name_from_form, stage_apart
from app.api.quantizing import find_or_quantize
from app.api.staging import staging_folder
from app.api.tables import QuantizeQuery, quantize_spec
from app.db.rows import TableRow
from app.errors import PayloadTooLarge
from app.quant.foreign import MAX_TABLE_BYTES

router = APIRouter(prefix="/v1/tables")

_FIELDS = Fields(files=("model", "cache"), texts=())
_FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object", "required": ["model", "cache"]}}}}}


class MigrateQuery(QuantizeQuery):
    """How a cache is taken over, and what is made of it: see `app.api.importing` and `app.spec.QuantizeSpec`."""

    min_coverage: float = Field(default=0.5, ge=0, le=1)
    fill: Literal["refuse", "neighbours"] = "neighbours"


@router.post("/migrate", openapi_extra=_FORM)
async def post_migrate(request: Request, context: InContext, wanted: Annotated[MigrateQuery, Query()]) -> Response:
    """Take the files `model` and `cache` of a form and return the Q/DQ model, for TensorRT 11 and the others.

    Both are kept: Content-Location says where the same model is, and with /report behind it what has changed. A cache
    that is refused leaves no model behind.
    """
    settings = context.service.settings
    async with staging_folder(settings) as folder:
        table = await _store(context, await stage_form(request, settings, folder, _FIELDS), wanted)
    quantized = await find_or_quantize(context, table, quantize_spec(table, wanted))
    response = blob_response(request, context.service.blobs, quantized.body, f"{table.id}.qdq.onnx")
    response.headers["Content-Location"] = f"/v1/tables/{table.id}/qdq{_query(wanted)}"
    return response


async def _store(context: Context, form: Form, wanted: MigrateQuery) -> TableRow:
    cache = await stage_apart(form.file("cache"), "c")
    if cache.size > MAX_TABLE_BYTES:
        raise PayloadTooLarge(limit_bytes=MAX_TABLE_BYTES)
    facts = await inspect_model(context, await stage_apart(form.file("model"), "m"))
    asked = Import(asked_model(facts), cache, wanted.min_coverage, wanted.fill, model_file=facts["files"][0]["path"])
    answer = await read_import(context, asked)
    return await asyncio.to_thread(
        _save, context, replace(asked, model_file=None), (name_from_form(form, "model"), facts), answer
    )


def _save(context: Context, wanted: Import, model: tuple[str, dict[str, Any]], answer: dict[str, Any]) -> TableRow:
    return save_import(context, replace(wanted, model=save_model(context, *model).row), answer)


def _query(wanted: MigrateQuery) -> str:
    chosen = wanted.model_dump(include=set(QuantizeQuery.model_fields), exclude_defaults=True)
    return f"?{urlencode(chosen, doseq=True)}" if chosen else ""
