"""Q/DQ models on request: found under their key, or made in a child now."""

import asyncio
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


async def find_or_quantize(context: Context, table: TableRow, quantize: QuantizeSpec) -> QuantizedRow:
    """Return the table's Q/DQ model. Raises TableIncomplete and what quantizing raises."""
    service = context.service
    with service.database.reading() as session:
        model = resolved_model(uploads.get_upload(session, ModelRow, table.model_id))
        key = keys.quantized_key(model.digest, table.body, quantize)
        known = results.find_by_key(session, QuantizedRow, key)
    if known is not None:
        return known
    async with staging_folder(service.settings) as folder, context.inspecting:
        request = {
            "model": await asyncio.to_thread(model_path, service.blobs, model, folder / "model"),
            "table": str(await asyncio.to_thread(service.blobs.fetch, table.body)),
            "quantize": quantize.model_dump(mode="json"),
            "out": str(folder / "qdq.onnx"),
        }
        limit = service.settings.step_limits.quantize_seconds
        report = await run_child(ChildCall(_STEP, request, "quantize", limit, folder=folder))
        return await asyncio.to_thread(_keep, context, key, folder / "qdq.onnx", report)


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
        }
        limit = service.settings.step_limits.quantize_seconds
        migration = await run_child(ChildCall(_MIGRATE_STEP, request, "quantize", limit, folder=folder))
    coverage = table.facts.get("coverage") or {}
    dropped = {name: coverage[name] for name in ("constants", "internal", "unknown") if name in coverage}
    own = {"table_id": table.id, "origin": table.origin, "digest": quantized.body}
    return own | quantized.report | {"migration": migration | {"dropped": dropped, "filled": coverage.get("filled", {})}}


def _keep(context: Context, key: str, path: Path, report: dict[str, Any]) -> QuantizedRow:
    digest = sha256_of(path)
    context.service.blobs.put(path, digest)
    row = QuantizedRow(key=key, body=digest, report=report)
    with context.service.database.transaction() as session:
        results.save_by_key(session, row)
    return row
