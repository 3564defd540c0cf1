"""judge: FP32 against INT8 on images that were not calibrated on; the report is saved before the gate may fail."""

from typing import Any

from app import keys
from app.db import results
from app.db.rows import EngineRow, QuantizedRow, ReportRow, TableRow
from app.worker.context import Run
from app.worker.files import dataset_files
from app.worker.stages.judge_request import judge_request
from app.worker.stages.quantize import find_or_quantize

STEP = "app.worker.steps.judge:judge"
SENSITIVITY_STEP = "app.worker.steps.sensitivity:sensitivity"


def find_or_judge(run: Run, engine: EngineRow, table: TableRow) -> ReportRow:
    """Return the report on the job's engine, measured now unless somebody has."""
    key = keys.judge_key(run.job, engine.key)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, ReportRow, key)
        return known or _judge(run, engine, table)


def _judge(run: Run, engine: EngineRow, table: TableRow) -> ReportRow:
    # A plan for a GPU is judged by the Q/DQ model that it was built from: the same arithmetic, on this CPU.
    tested = engine.plan if engine.backend == "onnxruntime" else find_or_quantize(run, table).body
    run.enter("judge")
    request = judge_request(run, table)
    report = run.child(STEP, request | {"tested": str(run.worker.blobs.fetch(tested))})
    report |= _found_before(run, table, request)
    row = ReportRow(key=keys.judge_key(run.job, engine.key), engine_id=engine.id, report=report)
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row


def _found_before(run: Run, table: TableRow, request: dict[str, Any]) -> dict[str, Any]:
    """Return what `exclude: auto` measured on its way, or the sensitivity that the job asks for."""
    if run.job.exclusion is not None:
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, QuantizedRow, run.job.exclusion)
        assert known is not None
        found = dict(known.report)
        return {"sensitivity": found.pop("sensitivity"), "exclude": found}
    if not run.job.spec.judge.sensitivity:
        return {}
    assert run.job.dataset is not None
    blobs = run.worker.blobs
    about = {"table": str(blobs.fetch(table.body)), "dataset": dataset_files(blobs, run.job.dataset)}
    return {"sensitivity": run.child(SENSITIVITY_STEP, request | about)}
