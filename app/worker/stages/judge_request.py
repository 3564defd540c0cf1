"""What every step gets that compares models on the judge images."""

from typing import Any

from app.db.rows import TableRow
from app.provenance import calibration_from_facts
from app.worker.context import Run
from app.worker.files import dataset_files, model_path


def judge_request(run: Run, table: TableRow) -> dict[str, Any]:
    """Return {"model", "judge", "is_apart", "calibration", "spec", "limits"}: see the step judge and `judge_files`."""
    judged = run.job.judge_dataset or run.job.dataset
    assert judged is not None
    blobs = run.worker.blobs
    return {
        "model": model_path(blobs, run.job.model, run.folder / "model"),
        "judge": dataset_files(blobs, judged),
        "is_apart": run.job.judge_dataset is not None,
        "calibration": calibration_of(run, table),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
    }


def calibration_of(run: Run, table: TableRow) -> dict[str, Any] | None:
    """Return on what the table was calibrated, with its listing as a path; None where that is not known."""
    known = calibration_from_facts(table.facts)
    dataset = run.job.dataset
    if known is None:
        return None
    is_own = dataset is not None and dataset.digest == known["dataset"]
    listing = dataset.listing if dataset is not None and is_own else known["listing"]
    if not run.worker.blobs.has(listing):
        return None
    return known | {"listing": str(run.worker.blobs.fetch(listing)), "is_own": is_own}
