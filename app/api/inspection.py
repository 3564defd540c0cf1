"""Uploads become rows: a child looks at the bytes, the blobs are durable, then the row is committed, then the 2xx."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.api.context import Context
from app.api.staging import Staged
from app.blobs.store import sha256_of
from app.child.parent import ChildCall, run_child
from app.db import uploads
from app.db.rows import DatasetRow, ModelRow
from app.errors import ModelInspectionLimit, ModelParserCrashed, StepTimeout, WorkerOom, WorkerProblem
from app.inputs.listing import merge_listings, summary_from_listing

_INSPECT_MODEL = "app.inputs.model:inspect_model"
#: An archive that unpacks more slowly than this is a bomb of time.
_SLOWEST_BYTES_PER_SECOND = 5 << 20
_UNPACK_DATASET = "app.inputs.dataset:unpack_dataset"


@dataclass(frozen=True)
class Stored:
    """A stored upload, and whether its name and bytes are new together."""

    row: Any
    is_new: bool


async def store_model(context: Context, name: str, staged: Staged) -> Stored:
    """Inspect and store a model. Raises ModelProblem and what the blob store raises."""
    return await asyncio.to_thread(save_model, context, name, await inspect_model(context, staged))


async def store_dataset(context: Context, name: str, staged: Staged) -> Stored:
    """Unpack and store an archive of images. Raises ArchiveProblem, ImageProblem and what the blob store raises."""
    return await asyncio.to_thread(save_dataset, context, name, await unpack_dataset(context, staged))


async def add_to_dataset(context: Context, name: str, staged: Staged) -> Stored:
    """Store a new version of a dataset: its images and those of the archive, which win where a path is in both."""
    with context.service.database.reading() as session:
        uploads.get_upload(session, DatasetRow, name)
    unpacked = await unpack_dataset(context, staged)
    return await asyncio.to_thread(_save_added, context, name, unpacked)


async def inspect_model(context: Context, staged: Staged) -> dict[str, Any]:
    """Return what the child says of a model: facts, and its files laid out beside the upload. Raises ModelProblem."""
    folder = staged.path.parent / "model"
    folder.mkdir()
    request = {"path": str(staged.path), "folder": str(folder)}
    try:
        return await _run(context, _INSPECT_MODEL, request, staged)
    except (WorkerOom, StepTimeout) as problem:
        raise ModelInspectionLimit from problem
    except WorkerProblem as problem:
        raise ModelParserCrashed(reason=problem.facts.get("reason", "")) from problem


async def unpack_dataset(context: Context, staged: Staged) -> dict[str, Any]:
    """Return what the child says of an archive of images: facts, pack and listing. Raises ArchiveProblem, ImageProblem."""
    folder = staged.path.parent
    request = {"archive": str(staged.path), "pack": str(folder / "pack"), "listing": str(folder / "listing.json")}
    answer = await _run(context, _UNPACK_DATASET, request, staged)
    return answer | request


async def _run(context: Context, target: str, request: dict[str, Any], staged: Staged) -> dict[str, Any]:
    settings = context.service.settings
    limits = settings.input_limits
    seconds = settings.step_limits.inspect_seconds + staged.size / _SLOWEST_BYTES_PER_SECOND
    call = ChildCall(
        target, request | {"limits": limits.model_dump(mode="json")}, "inspect", seconds,
        memory_bytes=settings.inspector_memory_bytes, folder=staged.path.parent,
    )  # fmt: skip
    async with context.inspecting:
        return await run_child(call)


def save_model(context: Context, name: str, facts: dict[str, Any]) -> Stored:
    """Store an inspected model: its blobs, then its row."""
    files = facts.pop("files")
    for file in files:
        context.service.blobs.put(Path(file["path"]), file["sha256"])
    kept = [{field: file[field] for field in ("name", "sha256", "size")} for file in files]
    row = ModelRow(name=name, digest=facts["digest"], files=kept, facts=facts, bytes=sum(file["size"] for file in files))
    return _save(context, row)


def save_dataset(context: Context, name: str, unpacked: dict[str, Any]) -> Stored:
    """Store an unpacked dataset: its blobs, then its row."""
    listing = json.loads(Path(unpacked["listing"]).read_text(encoding="utf-8"))
    _keep_pack(context, listing, unpacked)
    return _save(context, _listing_row(context, name, listing, Path(unpacked["listing"])))


def _save_added(context: Context, reference: str, unpacked: dict[str, Any]) -> Stored:
    added = json.loads(Path(unpacked["listing"]).read_text(encoding="utf-8"))
    _keep_pack(context, added, unpacked)
    while True:  # until nobody else has given the name a new version in between
        with context.service.database.reading() as session:
            old = uploads.get_upload(session, DatasetRow, reference)
            seen = uploads.get_upload(session, DatasetRow, old.name).id
        known = json.loads(context.service.blobs.fetch(old.listing).read_text(encoding="utf-8"))
        row = _listing_row(context, old.name, merge_listings(known, added), Path(unpacked["listing"]))
        with context.service.database.transaction() as session:
            if uploads.lock_name(session, DatasetRow, old.name) == seen:
                return Stored(*uploads.save_upload(session, row))


def _keep_pack(context: Context, listing: dict[str, Any], unpacked: dict[str, Any]) -> None:
    pack = Path(unpacked["pack"])
    digest = sha256_of(pack)
    for entry in listing["files"]:
        entry["pack"] = digest
    context.service.blobs.put(pack, digest)


def _listing_row(context: Context, name: str, listing: dict[str, Any], path: Path) -> DatasetRow:
    path.write_text(json.dumps(listing, sort_keys=True), encoding="utf-8")
    body = sha256_of(path)
    context.service.blobs.put(path, body)
    packs = sorted({entry["pack"] for entry in listing["files"]})
    return DatasetRow(name=name, listing=body, packs=packs, **summary_from_listing(listing))


def _save(context: Context, row: Any) -> Stored:
    with context.service.database.transaction() as session:
        saved, is_new = uploads.save_upload(session, row)
        return Stored(saved, is_new)
