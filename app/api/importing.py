"""Import of a foreign table: read in a child, matched with the model's tensors, never mixed with computed ones."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app import keys
from app.api.context import Context
from app.api.staging import Staged
from app.blobs.store import sha256_of
from app.child.parent import ChildCall, run_child
from app.db import results, uploads
from app.db.rows import ModelRow, TableRow
from app.errors import TableCoverage
from app.jobs.resolve import resolved_model
from app.worker.files import model_path

_STEP = "app.worker.steps.import_table:import_table"

Fill = Literal["refuse", "neighbours", "minmax-from-dataset"]


@dataclass(frozen=True)
class Import:
    """What is imported for which model. `computed`: a table of that model whose amax fill up the missing ones.

    `extremes`: whether least and greatest values are taken over from it. `model_file`: where a model is that is not stored yet.
    """

    model: ModelRow
    staged: Staged
    min_coverage: float
    fill: Fill = "refuse"
    computed: TableRow | None = None
    extremes: bool = False
    model_file: str | None = None


async def read_import(context: Context, wanted: Import) -> dict[str, Any]:
    """Return what the child says of the table, which it leaves beside the upload; nothing is stored.

    Raises TableProblem, TableScaleInvalid, TableCoverage.
    """
    service, folder = context.service, wanted.staged.path.parent
    fetch = service.blobs.fetch
    request = {
        "model": wanted.model_file or await asyncio.to_thread(_fetch_model, context, wanted, folder),
        "cache": str(wanted.staged.path),
        "out": str(body_path(wanted)),
        "fill": wanted.fill,
        "extremes": wanted.extremes,
        "computed": str(await asyncio.to_thread(fetch, wanted.computed.body)) if wanted.computed else None,
    }
    call = ChildCall(
        _STEP, request, "import", service.settings.step_limits.inspect_seconds,
        memory_bytes=service.settings.inspector_memory_bytes, folder=folder,
    )  # fmt: skip
    async with context.inspecting:
        answer = await run_child(call)
    _check_coverage(wanted, answer)
    return answer


def _check_coverage(wanted: Import, answer: dict[str, Any]) -> None:
    if _coverage(answer) >= wanted.min_coverage:
        return
    details = answer["details"]
    lacks = {"missing": [*details["missing"], *details["filled"]] or "nothing, but knows none of its names", "details": details}
    raise TableCoverage(matched=answer["covered"], needed=answer["needed"], minimum=wanted.min_coverage, **lacks)


def _coverage(answer: dict[str, Any]) -> float:
    """Return the covered share of the needed tensors; of a model that needs none, whether it knows any name at all."""
    if answer["needed"]:
        return answer["covered"] / answer["needed"]
    return float(any(answer["details"][kind] for kind in ("matched", "mapped", "constants", "zero")))


async def store_import(context: Context, wanted: Import, answer: dict[str, Any]) -> dict[str, Any]:
    """Store the table that `read_import` left and return its document: a filled up one is `derived`, else `imported`."""
    table = await asyncio.to_thread(save_import, context, wanted, answer)
    told = {"id": table.id, "origin": table.origin, "coverage": _coverage(answer), "extremes": answer["extremes"]}
    return told | answer["counts"] | {"details": answer["details"]}


def find_model(context: Context, reference: str) -> ModelRow:
    """Return the model that a name or id means. Raises NotFound."""
    with context.service.database.reading() as session:
        return uploads.get_upload(session, ModelRow, reference)


def _fetch_model(context: Context, wanted: Import, folder: Path) -> str:
    return model_path(context.service.blobs, resolved_model(wanted.model), folder / "model")


def body_path(wanted: Import) -> Path:
    """Return where `read_import` leaves the table's JSON."""
    return wanted.staged.path.parent / "table.json"


def save_import(context: Context, wanted: Import, answer: dict[str, Any]) -> TableRow:
    """Store the table that `read_import` left; what comes later is the model's last import, known or not."""
    path, computed = body_path(wanted), wanted.computed
    digest = sha256_of(path)
    context.service.blobs.put(path, digest)
    origin = "derived" if answer["details"]["filled"] or wanted.extremes else "imported"
    # Activations alone do not tell a table: its constants and its header are given back as they came, too.
    came = {"source": wanted.staged.sha256, "fill": wanted.fill, "filled_from": computed.id if computed else None}
    facts = {name: answer[name] for name in ("tensors", "dead", "format", "header", "equalizer", "kept", "listed")}
    row = TableRow(
        key=keys.key_from(model=wanted.model.digest, **{origin: digest}, **came), origin=origin, method=answer["method"],
        model_id=wanted.model.id, dataset_id=computed.dataset_id if computed else None, observation_key=None, body=digest,
        facts=facts | came | {"coverage": answer["details"]},
    )  # fmt: skip
    with context.service.database.transaction() as session:
        return results.save_imported_table(session, row)
