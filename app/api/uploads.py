"""Models and datasets: `curl -T` (PUT, raw body) and `curl -F` (POST, form)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from app.api.context import Context, InContext, InService
from app.api.documents import dataset_document, model_document
from app.api.forms import Fields, stage_form
from app.api.inspection import Stored, add_to_dataset, store_dataset, store_model
from app.api.paging import InPage, page_document
from app.api.staging import Staged, stage_body, staging_folder
from app.db import uploads
from app.db.pages import Page
from app.db.rows import DatasetRow, ModelRow
from app.errors import NameInvalid
from app.jobs.context import Service
from app.spec import check_name

router = APIRouter(prefix="/v1")

Reference = Annotated[str, Path(max_length=200)]

_RAW = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
_FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object", "required": ["file", "name"]}}}}}


@dataclass(frozen=True)
class _Kind:
    """What differs between models and datasets."""

    row: Any
    store: Callable[[Context, str, Staged], Awaitable[Stored]]
    document: Callable[[Any], dict[str, Any]]


_MODELS = _Kind(ModelRow, store_model, model_document)
_DATASETS = _Kind(DatasetRow, store_dataset, dataset_document)


@router.put("/models/{name}", openapi_extra=_RAW)
async def put_model(name: Reference, request: Request, response: Response, context: InContext) -> dict[str, Any]:
    """Store the body: ONNX bytes, or a zip or tar of one .onnx and its external data."""
    return await _put(_MODELS, name, request, response, context)


@router.put("/datasets/{name}", openapi_extra=_RAW)
async def put_dataset(name: Reference, request: Request, response: Response, context: InContext) -> dict[str, Any]:
    """Store the body: a zip, tar, tar.gz or tar.zst of images."""
    return await _put(_DATASETS, name, request, response, context)


@router.post("/models", openapi_extra=_FORM)
async def post_model(request: Request, response: Response, context: InContext) -> dict[str, Any]:
    """Store the model in a form with the fields `file` and `name`."""
    return await _post(_MODELS, request, response, context)


@router.post("/datasets", openapi_extra=_FORM)
async def post_dataset(request: Request, response: Response, context: InContext) -> dict[str, Any]:
    """Store the archive in a form with the fields `file` and `name`."""
    return await _post(_DATASETS, request, response, context)


@router.patch("/datasets/{name}", openapi_extra=_RAW)
async def patch_dataset(name: Reference, request: Request, context: InContext) -> dict[str, Any]:
    """Make a new version of a dataset: its images and those of the body; the same path is replaced."""
    async with staging_folder(context.service.settings) as folder:
        staged = await stage_body(request, context.service.settings, folder)
        return dataset_document((await add_to_dataset(context, name, staged)).row)


@router.get("/models")
def list_models(page: InPage, service: InService) -> dict[str, Any]:
    """List models, newest first."""
    return _list(_MODELS, page, service)


@router.get("/datasets")
def list_datasets(page: InPage, service: InService) -> dict[str, Any]:
    """List datasets, newest first."""
    return _list(_DATASETS, page, service)


@router.get("/models/{reference}")
def get_model(reference: Reference, service: InService) -> dict[str, Any]:
    """Describe one model, by id or by what its name points to now."""
    return _get(_MODELS, reference, service)


@router.get("/datasets/{reference}")
def get_dataset(reference: Reference, service: InService) -> dict[str, Any]:
    """Describe one dataset, by id or by what its name points to now."""
    return _get(_DATASETS, reference, service)


def valid_name(name: str) -> str:
    """Return the name. Raises NameInvalid."""
    try:
        return check_name(name)
    except ValueError as error:
        raise NameInvalid(reason=str(error)) from error


async def _put(kind: _Kind, name: str, request: Request, response: Response, context: Context) -> dict[str, Any]:
    valid_name(name)
    async with staging_folder(context.service.settings) as folder:
        staged = await stage_body(request, context.service.settings, folder)
        return _answer(kind, response, await kind.store(context, name, staged))


async def _post(kind: _Kind, request: Request, response: Response, context: Context) -> dict[str, Any]:
    async with staging_folder(context.service.settings) as folder:
        form = await stage_form(request, context.service.settings, folder, Fields(("file",), ("name",)))
        name = valid_name(form.fields.get("name", ""))
        return _answer(kind, response, await kind.store(context, name, form.file("file")))


def _answer(kind: _Kind, response: Response, stored: Stored) -> dict[str, Any]:
    response.status_code = 201 if stored.is_new else 200
    return kind.document(stored.row)


def _list(kind: _Kind, page: Page, service: Service) -> dict[str, Any]:
    with service.database.reading() as session:
        rows, following = uploads.list_uploads(session, kind.row, page)
    return page_document([kind.document(row) for row in rows], following)


def _get(kind: _Kind, reference: str, service: Service) -> dict[str, Any]:
    with service.database.reading() as session:
        return kind.document(uploads.get_upload(session, kind.row, reference))
