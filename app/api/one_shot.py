"""POST /v1/engines: one request uploads a model and images and submits a job; nothing is stored unless all of it is good."""

import asyncio
import json
import re
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.asked_spec import spec_from_fields
from app.api.context import Context, InContext
from app.api.forms import Fields, Form, stage_form
from app.api.inspection import inspect_model, save_dataset, save_model, unpack_dataset
from app.api.jobs import Wait, submit_and_wait
from app.api.staging import Staged, staging_folder
from app.api.uploads import valid_name
from app.db.rows import DatasetRow, ModelRow
from app.errors import NameInvalid, SpecProblem
from app.jobs.resolve import JobRows
from app.jobs.submit import check
from app.spec import JobSpec

router = APIRouter(prefix="/v1")

_FIELDS = Fields(files=("model", "images"), texts=("spec",))
_FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object", "required": ["model"]}}}}}
#: Stands in a spec for what is not stored yet.
PLACEHOLDER = "form"


@router.post("/engines", status_code=202, openapi_extra=_FORM)
async def post_engine(request: Request, response: Response, context: InContext, wait: Wait = 0) -> dict[str, Any]:
    """Do it all at once: the form has the files `model` and `images`, and `spec` (JSON without model and dataset).

    The uploads are named after their files. `images` may be left out where the spec needs none.
    """
    settings = context.service.settings
    async with staging_folder(settings) as folder:
        form = await stage_form(request, settings, folder, _FIELDS)
        spec = _spec_from_form(form)
        model = await inspect_model(context, await stage_apart(form.file("model"), "m"))
        images = await unpack_dataset(context, await stage_apart(form.file("images"), "i")) if spec.dataset else None
        rows = JobRows(asked_model(model), asked_dataset(images) if images else None, None)
        await asyncio.to_thread(check, context.service, spec, rows)
        ids = await asyncio.to_thread(_save, context, form, model, images)
    return await submit_and_wait(context.service, spec.model_copy(update=ids), response, wait)


def _save(context: Context, form: Form, model: dict[str, Any], images: dict[str, Any] | None) -> dict[str, str | None]:
    # Ids, not names: somebody else may send files of the same names at the same moment.
    model_id = save_model(context, name_from_form(form, "model"), model).row.id
    dataset_id = save_dataset(context, name_from_form(form, "images"), images).row.id if images else None
    return {"model": model_id, "dataset": dataset_id}


def asked_model(facts: dict[str, Any]) -> ModelRow:
    """Return the row of an inspected model that is not stored, to ask with."""
    files = [{field: file[field] for field in ("name", "sha256", "size")} for file in facts["files"]]
    return ModelRow(id=PLACEHOLDER, name=PLACEHOLDER, digest=facts["digest"], files=files, facts=facts, bytes=0)


def asked_dataset(unpacked: dict[str, Any]) -> DatasetRow:
    """Return the row of an unpacked dataset that is not stored, to ask with."""
    known = {name: unpacked[name] for name in ("digest", "images", "bytes", "labels")}
    return DatasetRow(id=PLACEHOLDER, name="images", listing="", packs=[], **known)


def _spec_from_form(form: Form) -> JobSpec:
    try:
        value = json.loads(form.fields.get("spec") or "{}")
    except (ValueError, RecursionError) as error:
        raise SpecProblem(reason="the field spec is not JSON") from error
    if not isinstance(value, dict) or {"model", "dataset"} & value.keys():
        raise SpecProblem(reason="the field spec is a JSON object without model and dataset, which are in the form")
    return spec_from_fields(value | {"model": PLACEHOLDER, "dataset": PLACEHOLDER if "images" in form.files else None})


def name_from_form(form: Form, part: str) -> str:
    """Return a name for an upload: what its sender called the file, as far as names allow it."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", form.stem(part).lower()).strip("-._")[:60]
    try:
        return valid_name(slug)
    except NameInvalid:
        return f"upload-{form.file(part).sha256[:12]}"


async def stage_apart(staged: Staged, folder: str) -> Staged:
    """Return the upload in a folder of its own, where it is inspected."""
    apart = staged.path.parent / folder
    apart.mkdir()
    return Staged(staged.path.rename(apart / "body"), staged.sha256, staged.size)
