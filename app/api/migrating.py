"""POST /v1/tables/migrate: a model and its old calibration cache in one form, the Q/DQ model out."""

import asyncio
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app import keys
from app.api.comparing import MOST_IMAGES, Comparing, comparing_spec, with_ids
from app.api.context import Context, InContext
from app.api.downloads import blob_response
from app.api.filling import Measuring, measuring_spec, must_measure, with_measured
from app.api.forms import Fields, Form, stage_form
from app.api.importing import Fill, Import, body_path, read_import, save_import
from app.api.inspection import inspect_model, save_dataset, save_model, unpack_dataset
from app.api.jobs import ENDED, submit_and_wait
from app.api.one_shot import PLACEHOLDER, asked_dataset, asked_model, name_from_form, stage_apart
from app.api.quantizing import Asked, find_quantized, keep_quantized, quantize_files
from app.api.staging import staging_folder
from app.api.tables import QuantizeQuery, quantize_spec
from app.blobs.store import sha256_of
from app.child.parent import ChildCall, run_child
from app.db import uploads
from app.db.rows import DatasetRow, JobRow, ModelRow, TableRow
from app.errors import PayloadTooLarge, SpecProblem, UnsupportedOption
from app.jobs.resolve import JobRows, resolved_model
from app.jobs.submit import check, submit
from app.quant.foreign import MAX_TABLE_BYTES
from app.spec import JobSpec, QuantizeSpec
from app.worker.files import model_path

router = APIRouter(prefix="/v1/tables")

_FIELDS = Fields(files=("model", "cache", "images"), texts=())
_CHECK_STEP = "app.worker.steps.prepare:check_excluded"
_FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object", "required": ["model", "cache"]}}}}}


class MigrateQuery(QuantizeQuery):
    """How a cache is taken over, and what is made of it: see `app.api.importing` and `app.spec.QuantizeSpec`.

    `preprocess` and `judge_images` (default all) are for the file `images`: see `app.api.comparing`. `dataset`: what is
    measured on for fill=minmax-from-dataset and extremes=true, which else measure on `images`; `wait`: seconds that the
    answer is held back for that.
    """

    min_coverage: float = Field(default=0.5, ge=0, le=1)
    fill: Fill = "neighbours"
    extremes: bool = False
    dataset: str | None = Field(default=None, max_length=100)
    preprocess: str | None = Field(default=None, max_length=4096)
    judge_images: int | None = Field(default=None, ge=1, le=MOST_IMAGES)
    wait: float = Field(default=60, ge=0, le=60)

    @property
    def measures(self) -> bool:
        """Whether images may tell what the cache does not."""
        return self.extremes or self.fill == "minmax-from-dataset"


@router.post("/migrate", openapi_extra=_FORM)
async def post_migrate(request: Request, context: InContext, wanted: Annotated[MigrateQuery, Query()]) -> Response:
    """Take the files `model` and `cache` of a form and return the Q/DQ model, for TensorRT 11 and the others.

    All is kept: Content-Location says where the same model is, and Link where its report is: what has changed, and with
    the file `images` (zip, tar, tar.gz, tar.zst) what it costs against FP32, which a job measures meanwhile. A cache or
    images that are refused, or a model that cannot be quantized with it, leave nothing behind. Where images have to tell
    first what the cache lacks, model and images are kept; the answer is 202 and the job's document while they are measured:
    send the same again then.
    """
    settings = context.service.settings
    comparing_spec(quantize_spec(wanted, equalize=False), _comparing(wanted))  # told before a large model has come
    async with staging_folder(settings) as folder:
        form = await stage_form(request, settings, folder, _FIELDS)
        if "images" in form.files and wanted.format != "int8":
            reason = "it is compared by ONNX Runtime's INT8 engine; leave images out, and judge the engine that you build"
            raise UnsupportedOption(option=f"format {wanted.format} with images", reason=reason)
        _check_images(form, wanted)
        read = await _read(context, form, wanted)
        compared = await _read_images(context, read, wanted)
        stored = None
        if must_measure(read.cache, read.answer):
            stored, job = await _measure(context, read, compared, wanted)
            if job["state"] not in ENDED:
                return JSONResponse(job, 202, headers={"Location": f"/v1/jobs/{job['id']}"})
            read = await _read_measured(context, read, stored, job)
        asked = await asyncio.to_thread(_asked, read, wanted)
        known = await asyncio.to_thread(find_quantized, context, asked.key)
        quantized = known or await quantize_files(context, asked, folder)
        stored = stored or await asyncio.to_thread(_store, context, read, compared)
        table = await asyncio.to_thread(_save, context, read, stored)
        if known is None:
            await asyncio.to_thread(keep_quantized, context, quantized, folder)
        job = await asyncio.to_thread(_compare, context, table, compared, stored) if compared else None
    response = blob_response(request, context.service.blobs, quantized.body, f"{table.id}.qdq.onnx")
    response.headers.update(_links(table, wanted, job))
    return response


@dataclass(frozen=True)
class _Read:
    """A form whose model and cache were found good: facts of the model, its file, and what the child says of the cache."""

    form: Form
    facts: dict[str, Any]
    model_file: str
    cache: Import
    answer: dict[str, Any]


async def _read(context: Context, form: Form, wanted: MigrateQuery) -> _Read:
    cache = await stage_apart(form.file("cache"), "c")
    if cache.size > MAX_TABLE_BYTES:
        raise PayloadTooLarge(limit_bytes=MAX_TABLE_BYTES)
    facts = await inspect_model(context, await stage_apart(form.file("model"), "m"))
    file = facts["files"][0]["path"]
    asked = Import(asked_model(facts), cache, wanted.min_coverage, wanted.fill, extremes=wanted.extremes, model_file=file)
    return _Read(form, facts, file, asked, await read_import(context, asked))


def _quantize(read: _Read, wanted: MigrateQuery) -> QuantizeSpec:
    return quantize_spec(wanted, equalize=read.answer["equalizer"] is not None)


def _asked(read: _Read, wanted: MigrateQuery) -> Asked:
    quantize, table = _quantize(read, wanted), body_path(read.cache)
    key = keys.quantized_key(read.facts["digest"], sha256_of(table), quantize)
    return Asked(key, read.model_file, str(table), quantize)


@dataclass(frozen=True)
class _Images:
    """Images that were found good, the name that they get, and the spec of the job that compares on them."""

    name: str
    unpacked: dict[str, Any]
    spec: JobSpec


def _check_images(form: Form, wanted: MigrateQuery) -> None:
    has_images, has_dataset = "images" in form.files, wanted.dataset is not None
    if has_dataset and not wanted.measures:
        raise SpecProblem(reason="dataset=NAME goes with fill=minmax-from-dataset or extremes=true, which measure on it")
    if wanted.measures and not (has_images or has_dataset):
        reason = "fill=minmax-from-dataset and extremes=true measure on the file images, or on dataset=NAME; give one of them"
        raise SpecProblem(reason=reason)
    if not has_images and (wanted.judge_images is not None or (wanted.preprocess is not None and not has_dataset)):
        raise SpecProblem(reason="preprocess and judge_images are for the file images; with curl: -F images=@ARCHIVE")


async def _read_images(context: Context, read: _Read, wanted: MigrateQuery) -> _Images | None:
    """Return the form's images, None without any; raises what the job that compares on them would be refused for."""
    if "images" not in read.form.files:
        return None
    spec = comparing_spec(_quantize(read, wanted), _comparing(wanted))
    unpacked = await unpack_dataset(context, await stage_apart(read.form.file("images"), "i"))
    rows = JobRows(asked_model(read.facts), None, asked_dataset(unpacked))
    await asyncio.to_thread(check, context.service, spec, rows)
    return _Images(name_from_form(read.form, "images"), unpacked, spec)


@dataclass(frozen=True)
class _Stored:
    """What the form's model and images are now."""

    model: ModelRow
    dataset: DatasetRow | None


def _store(context: Context, read: _Read, images: _Images | None) -> _Stored:
    model = save_model(context, name_from_form(read.form, "model"), read.facts).row
    return _Stored(model, save_dataset(context, images.name, images.unpacked).row if images else None)


async def _measure(
    context: Context, read: _Read, images: _Images | None, wanted: MigrateQuery
) -> tuple[_Stored, dict[str, Any]]:
    """Store model and images, have a job measure on them, or on the dataset named, and return it as it is after the wait."""
    service = context.service
    # What names nothing fails now, rather than after the measurement.
    if exclude := list(_quantize(read, wanted).excluding(()).exclude):
        request = {"model": read.model_file, "exclude": exclude, "placement": wanted.placement}
        folder, limit = read.cache.staged.path.parent, service.settings.step_limits.inspect_seconds
        async with context.inspecting:
            await run_child(ChildCall(_CHECK_STEP, request, "quantize", limit, folder=folder))
    named = await asyncio.to_thread(_find_dataset, context, wanted.dataset) if wanted.dataset else None
    spec = measuring_spec(read.cache, Measuring(PLACEHOLDER, wanted.preprocess, wanted.wait), read.answer)
    asked = named or (asked_dataset(images.unpacked) if images else None)
    await asyncio.to_thread(check, service, spec, JobRows(read.cache.model, asked, None))
    stored = await asyncio.to_thread(_store, context, read, images)
    dataset = named or stored.dataset
    ids = {"model": stored.model.id, "dataset": dataset.id if dataset else None}
    return stored, await submit_and_wait(service, spec.model_copy(update=ids), Response(), wanted.wait)


def _find_dataset(context: Context, name: str) -> DatasetRow:
    with context.service.database.reading() as session:
        return uploads.get_upload(session, DatasetRow, name)


async def _read_measured(context: Context, read: _Read, stored: _Stored, job: dict[str, Any]) -> _Read:
    cache = await with_measured(context, replace(read.cache, model=stored.model, model_file=None), job)
    folder = cache.staged.path.parent / "stored"
    file = await asyncio.to_thread(model_path, context.service.blobs, resolved_model(stored.model), folder)
    cache = replace(cache, model_file=file)
    return replace(read, model_file=file, cache=cache, answer=await read_import(context, cache))


def _comparing(wanted: MigrateQuery) -> Comparing:
    return Comparing(wanted.preprocess, wanted.judge_images)


def _save(context: Context, read: _Read, stored: _Stored) -> TableRow:
    return save_import(context, replace(read.cache, model=stored.model, model_file=None), read.answer)


def _compare(context: Context, table: TableRow, images: _Images, stored: _Stored) -> JobRow:
    assert stored.dataset is not None
    return submit(context.service, with_ids(images.spec, table.model_id, table.id, stored.dataset.id)).job


def _links(table: TableRow, wanted: MigrateQuery, job: JobRow | None) -> dict[str, str]:
    chosen = wanted.model_dump(include=set(QuantizeQuery.model_fields), exclude_defaults=True)
    model, told = f"/v1/tables/{table.id}/qdq", chosen | ({"job": job.id} if job else {})
    report = f"{model}/report{_query(told)}"
    return {"Content-Location": f"{model}{_query(chosen)}", "Link": f'<{report}>; rel="describedby"'}


def _query(fields: dict[str, Any]) -> str:
    return f"?{urlencode(fields, doseq=True)}" if fields else ""
