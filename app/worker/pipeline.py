"""One job on one screen: observe, derive, quantize, build, judge. What is saved under its key is not computed again."""

from typing import Any

import structlog

from app.db import jobs
from app.db.rows import JobRow, ReportRow, TableRow
from app.errors import CrashLoop, Problem
from app.quant.judge import check_gate
from app.worker.context import JobLost, Run, Worker, WorkerStopping
from app.worker.stages.build import find_or_build
from app.worker.stages.derive import find_or_derive
from app.worker.stages.exclude import find_or_exclude
from app.worker.stages.fastest import find_or_build_fastest
from app.worker.stages.judge import find_or_judge
from app.worker.warnings import job_warnings

log = structlog.get_logger()


def carry_out(run: Run) -> None:
    """Run the job's stages in order, noting each result on its row as it comes. Raises what a stage raises."""
    table = find_or_derive(run) if run.job.spec.calibration else None
    if table is not None:
        run.change(table_id=table.id, warnings=job_warnings(table.facts, None))
    if run.job.spec.engine is None:
        return
    if run.job.spec.is_quantized and table is not None:
        run.job = find_or_exclude(run, table)
    if table is not None and run.job.spec.quantize.placement == "measured":
        engine = find_or_build_fastest(run, table)
    else:
        engine = find_or_build(run, table if run.job.spec.is_quantized else None)
    run.change(engine_id=engine.id)
    if run.job.is_judged and table is not None:
        _pass_gate(run, find_or_judge(run, engine, table), table)


def finish(run: Run, crashes: int) -> None:
    """Carry the job out and write how it ended; a job that is not ours any more is left alone."""
    try:
        if crashes >= run.worker.settings.max_crashes:
            raise CrashLoop(attempts=crashes)
        carry_out(run)
        _end(run, "succeeded", None)
    except JobLost:
        log.info("job lost", job=run.fence.job_id, attempt=run.fence.attempt)
    except WorkerStopping:
        with run.worker.database.transaction() as session:
            jobs.release_job(session, run.fence)
    except Problem as problem:
        _end(run, "failed", problem.to_job_error())
    except Exception as error:
        log.exception("job failed unexpectedly", job=run.fence.job_id)
        _end(run, "failed", Problem(reason=type(error).__name__).to_job_error())


def start(worker: Worker, job_id: str) -> JobRow | None:
    """Take the job for a new attempt; None when there is nothing to do."""
    with worker.database.transaction() as session:
        return jobs.start_attempt(session, job_id, worker.id)


def _pass_gate(run: Run, report: ReportRow, table: TableRow) -> None:
    run.change(report_key=report.key, warnings=job_warnings(table.facts, report.report))
    gate = run.job.spec.judge.gate
    if gate is not None:
        check_gate(report.report, gate)


def _end(run: Run, state: str, error: dict[str, Any] | None) -> None:
    with run.worker.database.transaction() as session:
        jobs.end_job(session, run.fence, state, error=error)
    log.info("job ended", job=run.fence.job_id, state=state, code=error and error["code"])
