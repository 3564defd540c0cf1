"""Rows as the JSON that the HTTP interface promises."""

from datetime import UTC, datetime
from typing import Any

from app.db.rows import DatasetRow, EngineRow, JobRow, ModelRow, TableRow

#: Of an imported table: sha256 and kind of what came, what of it the model knows, and where added ranges came from.
_IMPORTED = ("source", "format", "header", "equalizer", "fill", "filled_from", "coverage")
_MODEL_FACTS = ("inputs", "outputs", "opset", "producer", "nodes", "operators", "parameters")


def model_document(row: ModelRow) -> dict[str, Any]:
    """Return `{id, name, digest, inputs, outputs, ...}`."""
    facts = {
        name: row.facts.get(name) for name in ("inputs", "outputs", "opset", "producer", "nodes", "operators", "parameters")
    }
    own = {"id": row.id, "name": row.name, "digest": row.digest}
    return own | facts | {"bytes": row.bytes, "created_at": row.created_at.isoformat()}


def dataset_document(row: DatasetRow) -> dict[str, Any]:
    """Return `{id, name, digest, images, bytes, labels, ...}`."""
    return {
        "id": row.id,
        "name": row.name,
        "digest": row.digest,
        "images": row.images,
        "bytes": row.bytes,
        "labels": row.labels,
        "ignored": row.ignored,
        "created_at": row.created_at.isoformat(),
    }


def job_document(row: JobRow, joined: bool | None = None) -> dict[str, Any]:
    """Return a job as `GET /v1/jobs/{id}` does; `joined` only where it was just submitted."""
    document: dict[str, Any] = {
        "id": row.id,
        "state": row.state,
        "stage": row.stage,
        "progress": {"done": row.progress_done, "total": row.progress_total},
        "eta_seconds": _eta_seconds(row),
        "attempt": row.attempt,
        "error": row.error,
        "warnings": row.warnings,
        "table_id": row.table_id,
        "engine_id": row.engine_id,
        "report_url": f"/v1/jobs/{row.id}/report" if row.report_key else None,
        "cache": row.cache,
        "queue": row.queue,
        "priority": row.priority,
        "spec": row.resolved["spec"],
        "created_at": row.created_at.isoformat(),
        "started_at": _iso(row.started_at),
        "ended_at": _iso(row.ended_at),
    }
    return document if joined is None else document | {"joined": joined}


def table_document(row: TableRow, names: dict[str, str | None], stale_reason: str | None) -> dict[str, Any]:
    """Return a table's metadata and provenance; `names` of its model and dataset."""
    return {
        "id": row.id,
        "key": row.key,
        "origin": row.origin,
        "method": row.method,
        "chosen": row.facts.get("chosen"),
        "candidates": row.facts.get("candidates"),
        "model": names["model"],
        "model_id": row.model_id,
        "dataset": names["dataset"],
        "dataset_id": row.dataset_id,
        "digest": row.body,
        "tensors": row.facts.get("tensors"),
        "dead": row.facts.get("dead", []),
        "images": row.facts.get("images"),
        "skipped": row.facts.get("skipped"),
        "left_out": row.facts.get("left_out"),
        "repeated_images": row.facts.get("repeated_images"),
        "constant_images": row.facts.get("constant_images"),
        "mixed_tensors": row.facts.get("mixed_tensors"),
        "converge": row.facts.get("converge"),
        "drift": row.facts.get("drift"),
        "provenance": {name: row.facts.get(name) for name in ("observation", "tools")},
        "imported": {name: row.facts.get(name) for name in _IMPORTED} if "coverage" in row.facts else None,
        "nondeterministic": row.nondeterministic,
        "stale": stale_reason is not None,
        "stale_reason": stale_reason,
        "created_at": row.created_at.isoformat(),
    }


def engine_document(row: EngineRow) -> dict[str, Any]:
    """Return an engine's metadata."""
    own = {
        "id": row.id,
        "backend": row.backend,
        "precision": row.precision,
        "digest": row.plan,
        "bytes": row.plan_bytes,
        "model_id": row.model_id,
        "table_id": row.table_id,
        "plan_url": f"/v1/engines/{row.id}/plan",
        "created_at": row.created_at.isoformat(),
    }
    return row.facts | own


def report_document(report: dict[str, Any], table: TableRow | None, engine: EngineRow | None) -> dict[str, Any]:
    """Return what the judge measured, with the method of the table and, for `auto`, what all methods reached; and
    as `engine` what became of the engine. Without a judge that is all.
    """
    facts = table.facts if table else {}
    method = facts.get("chosen") or (table.method if table else None)
    told = {"method": method} | {name: facts.get(name) for name in ("candidates", "converge", "drift")}
    return report | told | {"engine": _built(engine) if engine else None}


def _built(row: EngineRow) -> dict[str, Any]:
    """Return size and layers of an engine; `not_int8`: who decided (the quantizer, or the runtime that was asked) and why;
    `channels`: what the weights alone say of INT8, see `report_channels` · `equalized`: see `equalize_model`.
    """
    layers, quantized = dict(row.facts.get("layers") or {}), row.facts.get("quantize") or {}
    refused = [node | {"decided_by": row.backend} for node in layers.pop("refused", [])]
    kept = [node | {"decided_by": "quantizer"} for node in quantized.get("kept_float", [])]
    return {
        "id": row.id,
        "backend": row.backend,
        "precision": row.precision,
        "plan_bytes": row.plan_bytes,
        "weights_bytes": sum((row.facts.get("weights") or {}).values()) or None,
        "weights": row.facts.get("weights"),
        "layers": layers or None,
        "asked_int8": len(quantized["quantized"]) if quantized else 0,
        "multiply_adds_int8": quantized.get("multiply_adds_int8"),
        "channels": quantized.get("channels", []),
        "equalized": quantized.get("equalized", []),
        "not_int8": refused + kept,
    }


def _eta_seconds(row: JobRow) -> float | None:
    if row.state != "running" or not row.progress_total or not row.progress_done or row.stage_started_at is None:
        return None
    elapsed = (datetime.now(UTC) - row.stage_started_at).total_seconds()
    return round(elapsed * (row.progress_total - row.progress_done) / row.progress_done, 1)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
