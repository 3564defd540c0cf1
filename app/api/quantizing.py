"""Q/DQ models on request: found under their key, or made in a child now."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import keys
from app.api.context import Context
from app.api.staging import staging_folder
from app.blobs.store import sha256_of
from app.child.parent import ChildCall, run_child
from app.db import results, uploads
from app.db.rows import ModelRow, QuantizedRow, TableRow
from app.jobs.resolve import resolved_model
from app.spec import QuantizeSpec
from app.worker.files import model_path

_STEP = "app.worker.steps.quantize:quantize"
_MIGRATE_STEP = "app.worker.steps.migrate:migrate"


@dataclass(frozen=True)
class Asked:
    """A Q/DQ model by its key, and the files that it is made of: the model's first one, and the table's JSON."""

    key: str
    model: str
    table: str
    quantize: QuantizeSpec


async def find_or_quantize(context: Context, table: TableRow, quantize: QuantizeSpec) -> QuantizedRow:
    """Return the table's Q/DQ model. Raises TableIncomplete and what quantizing raises."""
    service = context.service
    with service.database.reading() as session:
        model = resolved_model(uploads.get_upload(session, ModelRow, table.model_id))
    key = keys.quantized_key(model.digest, table.body, quantize)
    if (known := await asyncio.to_thread(find_quantized, context, key)) is not None:
        return known
    async with staging_folder(service.settings) as folder:
        files = await asyncio.to_thread(model_path, service.blobs, model, folder / "model")
        asked = Asked(key, files, str(await asyncio.to_thread(service.blobs.fetch, table.body)), quantize)
        row = await quantize_files(context, asked, folder)
        await asyncio.to_thread(keep_quantized, context, row, folder)
    return row


def find_quantized(context: Context, key: str) -> QuantizedRow | None:
    """Return the stored Q/DQ model of a key, unless its bytes are lost."""
    with context.service.database.reading() as session:
        known = results.find_by_key(session, QuantizedRow, key)
    return known if known is not None and context.service.blobs.has(known.body) else None


async def quantize_files(context: Context, asked: Asked, folder: Path) -> QuantizedRow:
    """Make a Q/DQ model in folder and return its row; nothing is stored. Raises what quantizing raises."""
    path = _made_in(folder)
    request = {"model": asked.model, "table": asked.table, "quantize": asked.quantize.model_dump(mode="json"), "out": str(path)}
    limit = context.service.settings.step_limits.quantize_seconds
    async with context.inspecting:
        report = await run_child(ChildCall(_STEP, request, "quantize", limit, folder=folder))
    return QuantizedRow(key=asked.key, body=await asyncio.to_thread(sha256_of, path), report=report)


def keep_quantized(context: Context, row: QuantizedRow, folder: Path) -> None:
    """Store what `quantize_files` made in that folder."""
    context.service.blobs.put(_made_in(folder), row.body)
    with context.service.database.transaction() as session:
        results.save_by_key(session, row)


def _made_in(folder: Path) -> Path:
    return folder / "qdq.onnx"


async def quantize_report(context: Context, table: TableRow, quantize: QuantizeSpec) -> dict[str, Any]:
    """Return the quantizer's report on the table's Q/DQ model, and as `migration` what changes against a cache."""
    service = context.service
    quantized = await find_or_quantize(context, table, quantize)
    async with staging_folder(service.settings) as folder, context.inspecting:
        request = {
            "qdq": str(await asyncio.to_thread(service.blobs.fetch, quantized.body)),
            "table": str(await asyncio.to_thread(service.blobs.fetch, table.body)),
            "filled": list((table.facts.get("coverage") or {}).get("filled", {})),
            "kept_float": quantized.report["kept_float"],
            "channels": quantized.report["channels"],
        }
        limit = service.settings.step_limits.quantize_seconds
        migration = await run_child(ChildCall(_MIGRATE_STEP, request, "quantize", limit, folder=folder))
    coverage = table.facts.get("coverage") or {}
    dropped = {name: coverage[name] for name in ("constants", "internal", "unknown") if name in coverage}
    own = {"table_id": table.id, "origin": table.origin, "digest": quantized.body}
    return own | quantized.report | {"migration": migration | {"dropped": dropped, "filled": coverage.get("filled", {})}}
