"""build: Q/DQ model, or the FP32 model, -> plan, saved under the engine key."""

from typing import Any

from app import keys
from app.db import results
from app.db.rows import EngineRow, TableRow
from app.worker.context import Run
from app.worker.files import model_path
from app.worker.stages.quantize import find_or_quantize

STEP = "app.worker.steps.build:build"


def find_or_build(run: Run, table: TableRow | None) -> EngineRow:
    """Return the job's engine, built now unless somebody has."""
    key = keys.engine_key(run.job, table.body if table else None)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_engine(session, key)
        return known if known and run.worker.blobs.has(known.plan) else _build(run, table, key)


def _build(run: Run, table: TableRow | None, key: str) -> EngineRow:
    assert run.job.spec.engine is not None
    quantized = find_or_quantize(run, table) if table else None
    blobs = run.worker.blobs
    model = str(blobs.fetch(quantized.body)) if quantized else model_path(blobs, run.job.model, run.folder / "model")
    run.enter("build")
    plan = run.folder / "plan"
    request = {
        "model": model,
        "engine": run.job.spec.engine.model_dump(mode="json"),
        "float_type": run.job.spec.quantize.float_type,
        "out": str(plan),
    }
    facts = run.child(STEP, request)
    facts["quantize"] = quantized.report if quantized else None
    row = _row(run, table, key, facts)
    row.plan_bytes = plan.stat().st_size
    row.plan = run.keep(plan)
    with run.worker.database.transaction() as session:
        saved = results.save_engine(session, row)
    run.fail_point("after")
    return saved


def _row(run: Run, table: TableRow | None, key: str, facts: dict[str, Any]) -> EngineRow:
    engine = run.job.spec.engine
    assert engine is not None
    return EngineRow(
        key=key, model_id=run.job.model.id, table_id=table.id if table else None,
        backend=engine.backend, precision=engine.precision, facts=facts,
    )  # fmt: skip
