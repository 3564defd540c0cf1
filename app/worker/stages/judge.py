"""judge: FP32 against INT8 on images that were not calibrated on; the report is saved before the gate may fail."""

from typing import Any

from app import keys
from app.db import results
from app.db.rows import EngineRow, ReportRow, TableRow
from app.spec import Precision
from app.worker.context import Run
from app.worker.files import dataset_files, model_path
from app.worker.stages.derive import taken_images
from app.worker.stages.latency import latency_warnings, measure_models
from app.worker.stages.quantize import find_or_quantize
from app.worker.stages.twins import find_or_build_twin

STEP = "app.worker.steps.judge:judge"
PLANS_STEP = "app.worker.steps.judge:judge_on_gpu"


def find_or_judge(run: Run, engine: EngineRow, table: TableRow) -> ReportRow:
    """Return the report on the job's engine, measured now unless somebody has."""
    key = keys.judge_key(run.job, engine.key)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, ReportRow, key)
        return known or _judge(run, engine, table)


def _judge(run: Run, engine: EngineRow, table: TableRow) -> ReportRow:
    is_tensorrt = engine.backend == "tensorrt"
    report = _judge_plans(run, engine, table) if is_tensorrt else _judge_models(run, engine, table)
    if run.job.spec.judge.latency:
        report["warnings"] += latency_warnings(engine.backend, report["latency"]["precisions"])
    row = ReportRow(key=keys.judge_key(run.job, engine.key), engine_id=engine.id, report=report)
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row


def _judge_models(run: Run, engine: EngineRow, table: TableRow) -> dict[str, Any]:
    # A plan for a GPU that is not here is judged by the Q/DQ model that it was built from: the same arithmetic.
    tested = engine.plan if engine.backend == "onnxruntime" else find_or_quantize(run, table).body
    run.enter("judge")
    report = run.child(STEP, _request(run, tested, table))
    return report | ({"latency": measure_models(run, engine)} if run.job.spec.judge.latency else {})


def _judge_plans(run: Run, engine: EngineRow, table: TableRow) -> dict[str, Any]:
    twins: tuple[Precision, ...] = ("fp16", "fp32") if run.job.spec.judge.latency else ("fp16",)
    plans = {name: str(run.worker.blobs.fetch(find_or_build_twin(run, name).plan)) for name in twins}
    run.enter("judge")
    timed = plans | {engine.precision: str(run.worker.blobs.fetch(engine.plan))} if run.job.spec.judge.latency else {}
    return run.child(PLANS_STEP, _request(run, engine.plan, table) | {"beside": {"fp16": plans["fp16"]}, "timed": timed})


def _request(run: Run, tested: str, table: TableRow) -> dict[str, Any]:
    judged = run.job.judge_dataset or run.job.dataset
    assert judged is not None
    blobs = run.worker.blobs
    # With a table that the job names, the dataset is only judged on.
    is_apart = run.job.judge_dataset is not None or run.job.spec.table is not None
    calibration = None if is_apart else run.job.dataset
    return {
        "model": model_path(blobs, run.job.model, run.folder / "model"),
        "tested": str(blobs.fetch(tested)),
        "calibration": str(blobs.fetch(calibration.listing)) if calibration else None,
        "taken": taken_images(table),
        "judge": dataset_files(blobs, judged),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
    }
