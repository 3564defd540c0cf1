"""derive: histograms and a method -> a calibration table, saved under the table key."""

from pathlib import Path
from typing import Any

from app import keys
from app.db import results
from app.db.database import Session
from app.db.rows import TableRow
from app.quant.table import compute_drift, table_from_json
from app.resolved import ResolvedJob
from app.spec import DERIVED_METHODS, JobSpec
from app.worker.context import Run
from app.worker.files import dataset_files, model_path
from app.worker.stages.judge_request import judge_request
from app.worker.stages.memory import attempt_with_less
from app.worker.stages.observe import find_or_observe

DERIVE_STEP = "app.worker.steps.derive:derive"
CALIBRATE_STEP = "app.worker.steps.calibrate:calibrate"
CHOOSE_STEP = "app.worker.steps.choose:choose"

#: An amax that only one table has counts as this: JSON knows no infinity.
_MAX_DRIFT = 1e9
#: Of what the step derive answers, a table keeps these, and of `kept` what its method came to.
_TOLD = ("tensors", "dead")
#: So of what the step observe answered.
_TOLD_OF_IMAGES = ("skipped", "mixed_tensors", "images", "converge", "drift", "repeated_images", "constant_images")


def find_or_derive(run: Run) -> TableRow:
    """Return the job's table, derived now unless somebody has. Raises TableNondeterministic."""
    assert run.job.spec.calibration is not None
    if run.job.spec.table is not None:
        return _named(run, run.job.spec.table)
    key = keys.table_key(run.job)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = find_job_table(session, run.job)
        is_there = known is not None and run.worker.blobs.has(known.body)
        if known and is_there:
            return known
        calibration = run.job.spec.calibration
        return calibrate_natively(run, key) if calibration.is_native else _derive(run, key, calibration.method)


def _named(run: Run, table_id: str) -> TableRow:
    with run.worker.database.reading() as session:
        return results.get_table(session, table_id)


def find_job_table(session: Session, job: ResolvedJob) -> TableRow | None:
    """Return the table that the job names, or the computed one of its key; where there is none and the job allows it,
    the model's last import.
    """
    if job.spec.table is not None:
        return results.get_table(session, job.spec.table)
    known = results.find_table(session, keys.table_key(job))
    if known is None and job.spec.allow_imported:
        return results.find_imported_table(session, job.model.digest, keys.EQUALIZER if job.spec.quantize.equalize else None)
    return known


def calibrate_natively(run: Run, key: str) -> TableRow:
    """Let TensorRT's own calibrator make the table; its cache is stored with it, as it is."""
    assert run.job.dataset is not None
    assert run.job.spec.calibration is not None
    blobs = run.worker.blobs
    run.enter("observe")
    request: dict[str, Any] = {
        "model": model_path(blobs, run.job.model, run.folder / "model"),
        "dataset": dataset_files(blobs, run.job.dataset),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
        "out": str(run.folder / "table"),
        "cache": str(run.folder / "native.cache"),
    }

    def attempt(engine: dict[str, Any]) -> dict[str, Any]:
        return run.child(CALIBRATE_STEP, request | {"spec": request["spec"] | {"engine": engine}})

    answer = attempt_with_less(run, request["spec"]["engine"], "calibrated_again", attempt)
    facts = answer | {"native_cache": run.keep(Path(request["cache"]))}
    row = _save_body(run, key, run.job.spec.calibration.method, run.keep(Path(request["out"])), facts)
    run.fail_point("after")
    return row


def _derive(run: Run, key: str, method: str) -> TableRow:
    observation = find_or_observe(run)
    run.enter("derive")
    folder = run.folder / "tables"
    folder.mkdir(exist_ok=True)
    request = {
        "observation": str(run.worker.blobs.fetch(observation.body)),
        "inner": observation.report["inner"],
        "methods": list(DERIVED_METHODS) if method == "auto" else [method],
        "spec": run.job.spec.model_dump(mode="json"),
        "out": str(folder),
    }
    told: dict[str, Any] = {name: observation.report.get(name) for name in _TOLD_OF_IMAGES}
    answer = run.child(DERIVE_STEP, request) | told
    rows = {name: _save(run, keys.derived_table_key(run.job, name), name, folder / name, answer) for name in answer["methods"]}
    row = _choose(run, key, request, rows) if method == "auto" else rows[method]
    run.fail_point("after")
    return row


def _save(run: Run, key: str, method: str, path: Path, answer: dict[str, Any]) -> TableRow:
    told = {name: answer[name] for name in _TOLD + _TOLD_OF_IMAGES}
    return _save_body(run, key, method, run.keep(path), told | {"kept": answer["kept"][method]})


def _save_body(run: Run, key: str, method: str, body: str, extra: dict[str, Any]) -> TableRow:
    assert run.job.dataset is not None
    facts = {"observation": keys.observation_facts(run.job), "tools": run.job.tools.model_dump(mode="json"), **extra}
    row = TableRow(
        key=key, origin="computed", method=method, model_id=run.job.model.id, dataset_id=run.job.dataset.id,
        observation_key=keys.observation_key(run.job), body=body, facts=facts,
    )  # fmt: skip
    with run.worker.database.transaction() as session:
        saved = results.save_table(session, row)
        if not saved.nondeterministic:
            return saved
        results.note_disagreement(session, saved, _drift(run, results.tables_of_key(session, key)))
    with run.worker.database.reading() as session:
        return results.find_table(session, key) or saved


def _drift(run: Run, rows: list[TableRow]) -> float:
    tables = [table_from_json(run.worker.blobs.fetch(row.body).read_bytes()) for row in rows]
    return min(_MAX_DRIFT, max(change for table in tables for change in compute_drift(tables[0], table).values()))


def _choose(run: Run, key: str, request: dict[str, Any], rows: dict[str, TableRow]) -> TableRow:
    """Judge every method's table on the judge images and keep the one with the best agreement."""
    run.say(f"auto: judging {', '.join(rows)}")
    assert run.job.dataset is not None
    blobs = run.worker.blobs
    request = request | judge_request(run, rows[DERIVED_METHODS[0]])
    request["spec"] = _judged_spec(run.job).model_dump(mode="json")
    request["tables"] = {name: str(blobs.fetch(row.body)) for name, row in rows.items()}
    if run.job.spec.quantize.is_tuned:
        request["dataset"] = dataset_files(blobs, run.job.dataset)
    answer = run.child(CHOOSE_STEP, request)
    chosen = rows[answer["chosen"]]
    run.say(f"auto: {answer['chosen']} agrees best")
    extra = {name: chosen.facts.get(name) for name in (*_TOLD, *_TOLD_OF_IMAGES, "kept")} | answer
    return _save_body(run, key, "auto", chosen.body, extra)


def _judged_spec(job: ResolvedJob) -> JobSpec:
    """Return the spec by which tables are compared: a placement that only timings will choose is not there yet."""
    if job.spec.quantize.placement != "measured":
        return job.spec
    return job.spec.model_copy(update={"quantize": job.spec.quantize.model_copy(update={"placement": "default"})})
