"""POST /v1/tables/migrate: a model and its old calibration cache in one form, the Q/DQ model out."""

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app import keys
from app.api.context import Context, InContext
from app.api.downloads import blob_response
from app.api.forms import Fields, Form, stage_form
from app.api.importing import Import, body_path, read_import, save_import
from app.api.inspection import inspect_model, save_model
from app.api.one_shot import asked_model, name_from_form, stage_apart
from app.api.quantizing import Asked, find_quantized, keep_quantized, quantize_files
from app.api.staging import staging_folder
from app.api.tables import QuantizeQuery, quantize_spec
from app.blobs.store import sha256_of
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
    that is refused, or a model that cannot be quantized with it, leaves nothing behind.
    """
    settings = context.service.settings
    quantize_spec(wanted, equalize=False)  # told before a large model has come
    async with staging_folder(settings) as folder:
        read = await _read(context, await stage_form(request, settings, folder, _FIELDS), wanted)
        asked = await asyncio.to_thread(_asked, read, wanted)
        known = await asyncio.to_thread(find_quantized, context, asked.key)
        quantized = known or await quantize_files(context, asked, folder)
        table = await asyncio.to_thread(_save, context, read)
        if known is None:
            await asyncio.to_thread(keep_quantized, context, quantized, folder)
    response = blob_response(request, context.service.blobs, quantized.body, f"{table.id}.qdq.onnx")
    response.headers["Content-Location"] = f"/v1/tables/{table.id}/qdq{_query(wanted)}"
    return response


@dataclass(frozen=True)
class _Read:
    """A form that was found good: the model's name and facts, its cache, and what the child says of that."""

    name: str
    facts: dict[str, Any]
    cache: Import
    answer: dict[str, Any]


async def _read(context: Context, form: Form, wanted: MigrateQuery) -> _Read:
    cache = await stage_apart(form.file("cache"), "c")
    if cache.size > MAX_TABLE_BYTES:
        raise PayloadTooLarge(limit_bytes=MAX_TABLE_BYTES)
    facts = await inspect_model(context, await stage_apart(form.file("model"), "m"))
    asked = Import(asked_model(facts), cache, wanted.min_coverage, wanted.fill, model_file=facts["files"][0]["path"])
    return _Read(name_from_form(form, "model"), facts, asked, await read_import(context, asked))


def _asked(read: _Read, wanted: MigrateQuery) -> Asked:
    quantize, table = quantize_spec(wanted, equalize=read.answer["equalizer"] is not None), body_path(read.cache)
    key = keys.quantized_key(read.facts["digest"], sha256_of(table), quantize)
    return Asked(key, read.facts["files"][0]["path"], str(table), quantize)


def _save(context: Context, read: _Read) -> TableRow:
    model = save_model(context, read.name, read.facts).row
    return save_import(context, replace(read.cache, model=model, model_file=None), read.answer)


def _query(wanted: MigrateQuery) -> str:
    chosen = wanted.model_dump(include=set(QuantizeQuery.model_fields), exclude_defaults=True)
    return f"?{urlencode(chosen, doseq=True)}" if chosen else ""
