"""exclude: `auto` becomes names, found by measuring, saved under the key of all that decides them."""

from typing import Any

from app import keys
from app.blobs.store import BlobStore
from app.db import results
from app.db.database import Session
from app.db.rows import QuantizedRow, TableRow
from app.resolved import ResolvedJob
from app.worker.context import Run
from app.worker.files import dataset_files
from app.worker.stages.judge_request import judge_request

STEP = "app.worker.steps.exclude:exclude"


def find_excluding(session: Session, blobs: BlobStore, job: ResolvedJob, table: TableRow) -> ResolvedJob | None:
    """Return the job with names in the place of `auto`; the job itself without auto, None where they are not known."""
    if not job.spec.quantize.excludes_automatically:
        return job
    key = keys.exclusion_key(job, table.body, table.facts)
    known = results.find_by_key(session, QuantizedRow, key)
    return job.excluding(known.report["excluded"], key) if known and blobs.has(known.body) else None


def find_or_exclude(run: Run, table: TableRow) -> ResolvedJob:
    """Return the job with names in the place of `auto`, measured now unless somebody has."""
    if not run.job.spec.quantize.excludes_automatically:
        return run.job
    key = keys.exclusion_key(run.job, table.body, table.facts)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = find_excluding(session, run.worker.blobs, run.job, table)
        return known or _exclude(run, table, key)


def _exclude(run: Run, table: TableRow, key: str) -> ResolvedJob:
    run.enter("quantize")
    body = run.folder / "excluded.onnx"
    answer = run.child(STEP, _request(run, table) | {"out": str(body)})
    found = answer["exclude"]
    run.say(f"auto: {len(found['excluded'])} groups stay float, {100 * found['share']:.2f} % of the multiply-adds")
    job = run.job.excluding(found["excluded"], key)
    digest = run.keep(body)
    own = keys.quantized_key(job.model.digest, table.body, job.spec.quantize, keys.tuned_facts(job, table.facts))
    with run.worker.database.transaction() as session:
        results.save_by_key(session, QuantizedRow(key=own, body=digest, report=answer["placement"]))
        results.save_by_key(session, QuantizedRow(key=key, body=digest, report=found))
    run.fail_point("after")
    return job


def _request(run: Run, table: TableRow) -> dict[str, Any]:
    assert run.job.dataset is not None
    blobs = run.worker.blobs
    about = {"table": str(blobs.fetch(table.body)), "dataset": dataset_files(blobs, run.job.dataset)}
    return judge_request(run, table) | about
