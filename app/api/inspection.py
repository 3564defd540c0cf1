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
    folder = staged.path.parent / "model"
    folder.mkdir()
    request = {"path": str(staged.path), "folder": str(folder)}
    facts = await _inspect_model(context, request, staged)
    return await asyncio.to_thread(_save_model, context, name, facts)


async def store_dataset(context: Context, name: str, staged: Staged) -> Stored:
    """Unpack and store an archive of images. Raises ArchiveProblem, ImageProblem and what the blob store raises."""
    unpacked = await _unpack(context, staged)
    return await asyncio.to_thread(_save_dataset, context, name, unpacked)


async def add_to_dataset(context: Context, name: str, staged: Staged) -> Stored:
    """Store a new version of a dataset: its images and those of the archive, which win where a path is in both."""
    with context.service.database.reading() as session:
        old = uploads.get_upload(session, DatasetRow, name)
    unpacked = await _unpack(context, staged)
    return await asyncio.to_thread(_save_added, context, old, unpacked)


async def _inspect_model(context: Context, request: dict[str, Any], staged: Staged) -> dict[str, Any]:
    try:
        return await _run(context, _INSPECT_MODEL, request, staged)
    except (WorkerOom, StepTimeout) as problem:
        raise ModelInspectionLimit from problem
    except WorkerProblem as problem:
        raise ModelParserCrashed(reason=problem.facts.get("reason", "")) from problem


async def _unpack(context: Context, staged: Staged) -> dict[str, Any]:
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


def _save_model(context: Context, name: str, facts: dict[str, Any]) -> Stored:
    files = facts.pop("files")
    for file in files:
        context.service.blobs.put(Path(file["path"]), file["sha256"])
    kept = [{field: file[field] for field in ("name", "sha256", "size")} for file in files]
    row = ModelRow(name=name, digest=facts["digest"], files=kept, facts=facts, bytes=sum(file["size"] for file in files))
    return _save(context, row)


def _save_dataset(context: Context, name: str, unpacked: dict[str, Any]) -> Stored:
    listing = json.loads(Path(unpacked["listing"]).read_text(encoding="utf-8"))
    _keep_pack(context, listing, unpacked)
    return _save_listing(context, name, listing, Path(unpacked["listing"]))


def _save_added(context: Context, old: DatasetRow, unpacked: dict[str, Any]) -> Stored:
    added = json.loads(Path(unpacked["listing"]).read_text(encoding="utf-8"))
    _keep_pack(context, added, unpacked)
    known = json.loads(context.service.blobs.fetch(old.listing).read_text(encoding="utf-8"))
    return _save_listing(context, old.name, merge_listings(known, added), Path(unpacked["listing"]))


def _keep_pack(context: Context, listing: dict[str, Any], unpacked: dict[str, Any]) -> None:
    pack = Path(unpacked["pack"])
    digest = sha256_of(pack)
    for entry in listing["files"]:
        entry["pack"] = digest
    context.service.blobs.put(pack, digest)


def _save_listing(context: Context, name: str, listing: dict[str, Any], path: Path) -> Stored:
    path.write_text(json.dumps(listing, sort_keys=True), encoding="utf-8")
    body = sha256_of(path)
    context.service.blobs.put(path, body)
    packs = sorted({entry["pack"] for entry in listing["files"]})
    return _save(context, DatasetRow(name=name, listing=body, packs=packs, **summary_from_listing(listing)))


def _save(context: Context, row: Any) -> Stored:
    with context.service.database.transaction() as session:
        saved, is_new = uploads.save_upload(session, row)
        return Stored(saved, is_new)
