"""judge: FP32 against INT8 on images that were not calibrated on; the report is saved before the gate may fail."""

from dataclasses import replace
from typing import Any

from app import keys
from app.db import results
from app.db.rows import EngineRow, QuantizedRow, ReportRow, TableRow
from app.spec import Precision
from app.worker.context import Run
from app.worker.files import dataset_files
from app.worker.stages.judge_request import judge_request
from app.worker.stages.latency import latency_warnings, measure_models
from app.worker.stages.quantize import find_or_quantize
from app.worker.stages.twins import find_or_build_twin

STEP = "app.worker.steps.judge:judge"
SENSITIVITY_STEP = "app.worker.steps.sensitivity:sensitivity"
PLANS_STEP = "app.worker.steps.judge:judge_on_gpu"


def find_or_judge(run: Run, engine: EngineRow, table: TableRow) -> ReportRow:
    """Return the report on the job's engine, measured now unless somebody has."""
    key = keys.judge_key(run.job, engine.key, table.facts)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, ReportRow, key)
        return known or _judge(run, engine, table)


def _judge(run: Run, engine: EngineRow, table: TableRow) -> ReportRow:
    is_tensorrt = engine.backend == "tensorrt"
    report = _judge_plans(run, engine, table) if is_tensorrt else _judge_models(run, engine, table)
    report |= _found_besides(run, table)
    if run.job.spec.judge.latency:
        report["warnings"] += latency_warnings(engine.backend, report["latency"]["precisions"])
    row = ReportRow(key=keys.judge_key(run.job, engine.key, table.facts), engine_id=engine.id, report=report)
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row


def _judge_models(run: Run, engine: EngineRow, table: TableRow) -> dict[str, Any]:
    float_type = run.job.spec.judge.float_type
    # A plan for a GPU that is not here is judged by the Q/DQ model that it was built from: the same arithmetic.
    is_plan = engine.backend == "onnxruntime" and float_type is None
    tested = engine.plan if is_plan else find_or_quantize(_with_float_type(run), table).body
    run.enter("judge")
    report = run.child(STEP, _request(run, tested, table)) | ({"float_type": float_type} if float_type else {})
    return report | ({"latency": measure_models(run, engine)} if run.job.spec.judge.latency else {})


def _with_float_type(run: Run) -> Run:
    spec = run.job.spec
    quantize = spec.quantize.model_copy(update={"float_type": spec.judge.float_type or spec.quantize.float_type})
    return replace(run, job=run.job.model_copy(update={"spec": spec.model_copy(update={"quantize": quantize})}))


def _judge_plans(run: Run, engine: EngineRow, table: TableRow) -> dict[str, Any]:
    twins: tuple[Precision, ...] = ("fp16", "fp32") if run.job.spec.judge.latency else ("fp16",)
    plans = {name: str(run.worker.blobs.fetch(find_or_build_twin(run, name).plan)) for name in twins}
    run.enter("judge")
    timed = plans | {engine.precision: str(run.worker.blobs.fetch(engine.plan))} if run.job.spec.judge.latency else {}
    return run.child(PLANS_STEP, _request(run, engine.plan, table) | {"beside": {"fp16": plans["fp16"]}, "timed": timed})


def _request(run: Run, tested: str, table: TableRow) -> dict[str, Any]:
    return judge_request(run, table) | {"tested": str(run.worker.blobs.fetch(tested))}


def _found_besides(run: Run, table: TableRow) -> dict[str, Any]:
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
    return {"sensitivity": run.child(SENSITIVITY_STEP, judge_request(run, table) | about)}
