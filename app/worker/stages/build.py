"""build: Q/DQ model, or the FP32 model, -> plan, saved under the engine key."""

from pathlib import Path
from typing import Any

from app import keys
from app.db import results
from app.db.rows import EngineRow, TableRow
from app.resolved import ResolvedJob
from app.worker.context import Run
from app.worker.files import model_path
from app.worker.stages.memory import attempt_with_less
from app.worker.stages.quantize import find_or_quantize
from app.worker.stages.timings import fetch_timings, keep_timings

STEP = "app.worker.steps.build:build"


def find_or_build(run: Run, table: TableRow | None) -> EngineRow:
    """Return the job's engine, built now unless somebody has."""
    key = engine_key(run.job, table)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_engine(session, key)
        return known if known and run.worker.blobs.has(known.plan) else _build(run, table, key)


def engine_key(job: ResolvedJob, table: TableRow | None) -> str:
    """Return the key of the engine that a job builds from a table."""
    return keys.engine_key(job, table.body, table.facts) if table else keys.engine_key(job, None)


def _build(run: Run, table: TableRow | None, key: str) -> EngineRow:
    engine = run.job.spec.engine
    assert engine is not None
    is_explicit = table is not None and engine.quantization == "explicit"
    quantized = find_or_quantize(run, table) if table and is_explicit else None
    request = _request(run, table) | ({"model": str(run.worker.blobs.fetch(quantized.body))} if quantized else {})
    run.enter("build")
    facts = _run_step(run, request)
    facts["quantize"] = quantized.report if quantized else None
    plan = Path(request["out"])
    row = EngineRow(
        key=key, model_id=run.job.model.id, table_id=table.id if table else None, backend=engine.backend,
        precision=engine.precision, facts=facts, plan_bytes=plan.stat().st_size, plan=run.keep(plan),
    )  # fmt: skip
    with run.worker.database.transaction() as session:
        saved = results.save_engine(session, row)
    run.fail_point("after")
    return saved


def _request(run: Run, table: TableRow | None) -> dict[str, Any]:
    spec = run.job.spec
    assert spec.engine is not None
    is_implicit = table is not None and spec.engine.quantization == "implicit"
    blobs = run.worker.blobs
    beside = (keys.cache_facts(run.job, table.facts) if table else None) or {}
    return {
        "model": model_path(blobs, run.job.model, run.folder / "model"),
        "engine": spec.engine.model_dump(mode="json"),
        "float_type": spec.quantize.float_type,
        "exclude": list(spec.quantize.exclude) if is_implicit else [],
        "table": str(blobs.fetch(table.body)) if table and is_implicit else None,
        "native_cache": str(blobs.fetch(beside["native_cache"])) if "native_cache" in beside else None,
        "kept": beside.get("kept", {}),
        "timing_cache": None,
        "out": str(run.folder / f"plan-{spec.engine.precision}"),
    }


def _run_step(run: Run, request: dict[str, Any]) -> dict[str, Any]:
    if request["engine"]["backend"] != "tensorrt":
        return run.child(STEP, request)
    timings = run.folder / "timings"
    fetch_timings(run, timings)
    request = request | {"timing_cache": str(timings)}
    facts = attempt_with_less(
        run, request["engine"], "built_again", lambda engine: run.child(STEP, request | {"engine": engine})
    )
    keep_timings(run, timings)
    return facts
