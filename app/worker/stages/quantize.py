"""quantize: model and table -> Q/DQ model, saved under the key of both."""

from typing import Any

from app import keys
from app.db import results
from app.db.rows import QuantizedRow, TableRow
from app.worker.context import Run
from app.worker.files import dataset_files, model_path
from app.worker.stages.judge_request import calibration_of

STEP = "app.worker.steps.quantize:quantize"


def find_or_quantize(run: Run, table: TableRow) -> QuantizedRow:
    """Return the Q/DQ model of the job's model and this table, made now unless somebody has."""
    tuned = keys.tuned_facts(run.job, table.facts)
    key = keys.quantized_key(run.job.model.digest, table.body, run.job.spec.quantize, tuned)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, QuantizedRow, key)
        return known if known and run.worker.blobs.has(known.body) else _quantize(run, table, key)


def _quantize(run: Run, table: TableRow, key: str) -> QuantizedRow:
    run.enter("quantize")
    body = run.folder / "qdq.onnx"
    request = {
        "model": model_path(run.worker.blobs, run.job.model, run.folder / "model"),
        "table": str(run.worker.blobs.fetch(table.body)),
        "quantize": run.job.spec.quantize.model_dump(mode="json"),
        "out": str(body),
    }
    if run.job.spec.quantize.is_tuned:
        request |= _tuning(run, table)
    report = run.child(STEP, request)
    row = QuantizedRow(key=key, body=run.keep(body), report=report)
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row


def _tuning(run: Run, table: TableRow) -> dict[str, Any]:
    assert run.job.dataset is not None
    return {
        "dataset": dataset_files(run.worker.blobs, run.job.dataset),
        "calibration": calibration_of(run, table),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
    }
