"""Import of a foreign table: read in a child, matched with the model's tensors, stored as `imported`, never mixed."""

import asyncio
from pathlib import Path
from typing import Any

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


async def import_table(context: Context, reference: str, staged: Staged, min_coverage: float) -> dict[str, Any]:
    """Store the table and return what of it the model knows. Raises TableProblem, TableScaleInvalid, TableCoverage."""
    service = context.service
    with service.database.reading() as session:
        row = uploads.get_upload(session, ModelRow, reference)
    folder = staged.path.parent
    request = {
        "model": await asyncio.to_thread(model_path, service.blobs, resolved_model(row), folder / "model"),
        "cache": str(staged.path),
        "out": str(folder / "table.json"),
    }
    call = ChildCall(_STEP, request, "import", service.settings.step_limits.inspect_seconds, folder=folder)
    async with context.inspecting:
        answer = await run_child(call)
    details = answer["details"]
    if answer["needed"] and answer["covered"] / answer["needed"] < min_coverage:
        raise TableCoverage(matched=answer["covered"], needed=answer["needed"], minimum=min_coverage, details=details)
    table = await asyncio.to_thread(_save, context, row, folder / "table.json", answer)
    counts = {name: len(details[name]) for name in ("matched", "constants", "internal", "unknown", "missing")}
    return {"id": table.id, "origin": "imported", **counts, "details": details}


def _save(context: Context, model: ModelRow, path: Path, answer: dict[str, Any]) -> TableRow:
    digest = sha256_of(path)
    context.service.blobs.put(path, digest)
    row = TableRow(
        key=keys.key_from(model=model.digest, imported=digest), origin="imported", method=answer["method"],
        model_id=model.id, dataset_id=None, observation_key=None, body=digest,
        facts={"tensors": answer["tensors"], "dead": [], "coverage": answer["details"]},
    )  # fmt: skip
    with context.service.database.transaction() as session:
        return results.save_table(session, row)
