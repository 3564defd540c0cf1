"""POST /v1/tables/migrate: a model and its old calibration cache in one form, the Q/DQ model out."""

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from app import keys
from app.api.comparing import MOST_IMAGES, Comparing, comparing_spec, with_ids
from app.api.context import Context, InContext
from app.api.downloads import blob_response
from app.api.forms import Fields, Form, stage_form
from app.api.importing import Import, body_path, read_import, save_import
from app.api.inspection import inspect_model, save_dataset, save_model, unpack_dataset
from app.api.one_shot import asked_dataset, asked_model, name_from_form, stage_apart
from app.api.quantizing import Asked, find_quantized, keep_quantized, quantize_files
from app.api.staging import staging_folder
from app.api.tables import QuantizeQuery, quantize_spec
from app.blobs.store import sha256_of
from app.db.rows import JobRow, TableRow
from app.errors import PayloadTooLarge, SpecProblem, UnsupportedOption
from app.jobs.resolve import JobRows
from app.jobs.submit import check, submit
from app.quant.foreign import MAX_TABLE_BYTES
from app.spec import JobSpec

router = APIRouter(prefix="/v1/tables")

_FIELDS = Fields(files=("model", "cache", "images"), texts=())
_FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object", "required": ["model", "cache"]}}}}}


class MigrateQuery(QuantizeQuery):
    """How a cache is taken over, and what is made of it: see `app.api.importing` and `app.spec.QuantizeSpec`.

    `preprocess` and `judge_images` (default all) are for the file `images`: see `app.api.comparing`.
    """

    min_coverage: float = Field(default=0.5, ge=0, le=1)
    fill: Literal["refuse", "neighbours"] = "neighbours"
    preprocess: str | None = Field(default=None, max_length=4096)
    judge_images: int | None = Field(default=None, ge=1, le=MOST_IMAGES)


@router.post("/migrate", openapi_extra=_FORM)
async def post_migrate(request: Request, context: InContext, wanted: Annotated[MigrateQuery, Query()]) -> Response:
    """Take the files `model` and `cache` of a form and return the Q/DQ model, for TensorRT 11 and the others.

    All is kept: Content-Location says where the same model is, and Link where its report is: what has changed, and with
    the file `images` (zip, tar, tar.gz, tar.zst) what it costs against FP32, which a job measures meanwhile. A cache or
    images that are refused, or a model that cannot be quantized with it, leave nothing behind.
    """
    settings = context.service.settings
    comparing_spec(quantize_spec(wanted, equalize=False), _comparing(wanted))  # told before a large model has come
    async with staging_folder(settings) as folder:
        form = await stage_form(request, settings, folder, _FIELDS)
        if "images" in form.files and wanted.format != "int8":
            reason = "it is compared by ONNX Runtime's INT8 engine; leave images out, and judge the engine that you build"
            raise UnsupportedOption(option=f"format {wanted.format} with images", reason=reason)
        read = await _read(context, form, wanted)
        asked = await asyncio.to_thread(_asked, read, wanted)
        compared = await _read_images(context, read, asked, wanted)
        known = await asyncio.to_thread(find_quantized, context, asked.key)
        quantized = known or await quantize_files(context, asked, folder)
        table = await asyncio.to_thread(_save, context, read)
        if known is None:
            await asyncio.to_thread(keep_quantized, context, quantized, folder)
        job = await asyncio.to_thread(_compare, context, table, compared) if compared else None
    response = blob_response(request, context.service.blobs, quantized.body, f"{table.id}.qdq.onnx")
    response.headers.update(_links(table, wanted, job))
    return response


@dataclass(frozen=True)
class _Read:
    """A form whose model and cache were found good: facts of the model, and what the child says of the cache."""

    form: Form
    facts: dict[str, Any]
    cache: Import
    answer: dict[str, Any]


async def _read(context: Context, form: Form, wanted: MigrateQuery) -> _Read:
    cache = await stage_apart(form.file("cache"), "c")
    if cache.size > MAX_TABLE_BYTES:
        raise PayloadTooLarge(limit_bytes=MAX_TABLE_BYTES)
    facts = await inspect_model(context, await stage_apart(form.file("model"), "m"))
    asked = Import(asked_model(facts), cache, wanted.min_coverage, wanted.fill, model_file=facts["files"][0]["path"])
    return _Read(form, facts, asked, await read_import(context, asked))


def _asked(read: _Read, wanted: MigrateQuery) -> Asked:
    quantize, table = quantize_spec(wanted, equalize=read.answer["equalizer"] is not None), body_path(read.cache)
    key = keys.quantized_key(read.facts["digest"], sha256_of(table), quantize)
    return Asked(key, read.facts["files"][0]["path"], str(table), quantize)


@dataclass(frozen=True)
class _Images:
    """Images that were found good, the name that they get, and the spec of the job that compares on them."""

    name: str
    unpacked: dict[str, Any]
    spec: JobSpec


async def _read_images(context: Context, read: _Read, asked: Asked, wanted: MigrateQuery) -> _Images | None:
    """Return the form's images, None without any; raises what the job that compares on them would be refused for."""
    if "images" not in read.form.files:
        if wanted.preprocess is not None or wanted.judge_images is not None:
            raise SpecProblem(reason="preprocess and judge_images are for the file images; with curl: -F images=@ARCHIVE")
        return None
    spec = comparing_spec(asked.quantize, _comparing(wanted))
    unpacked = await unpack_dataset(context, await stage_apart(read.form.file("images"), "i"))
    rows = JobRows(asked_model(read.facts), None, asked_dataset(unpacked))
    await asyncio.to_thread(check, context.service, spec, rows)
    return _Images(name_from_form(read.form, "images"), unpacked, spec)


def _comparing(wanted: MigrateQuery) -> Comparing:
    return Comparing(wanted.preprocess, wanted.judge_images)


def _save(context: Context, read: _Read) -> TableRow:
    model = save_model(context, name_from_form(read.form, "model"), read.facts).row
    return save_import(context, replace(read.cache, model=model, model_file=None), read.answer)


def _compare(context: Context, table: TableRow, images: _Images) -> JobRow:
    dataset = save_dataset(context, images.name, images.unpacked).row
    return submit(context.service, with_ids(images.spec, table.model_id, table.id, dataset.id)).job


def _links(table: TableRow, wanted: MigrateQuery, job: JobRow | None) -> dict[str, str]:
    chosen = wanted.model_dump(include=set(QuantizeQuery.model_fields), exclude_defaults=True)
    model, told = f"/v1/tables/{table.id}/qdq", chosen | ({"job": job.id} if job else {})
    report = f"{model}/report{_query(told)}"
    return {"Content-Location": f"{model}{_query(chosen)}", "Link": f'<{report}>; rel="describedby"'}


def _query(fields: dict[str, Any]) -> str:
    return f"?{urlencode(fields, doseq=True)}" if fields else ""
