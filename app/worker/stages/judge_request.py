"""What every step gets that compares models on the judge images."""

from typing import Any

from app.db.rows import TableRow
from app.worker.context import Run
from app.worker.files import dataset_files, model_path


def judge_request(run: Run, table: TableRow) -> dict[str, Any]:
    """Return {"model", "judge", "calibration", "taken", "spec", "limits"}: see the step judge."""
    judged = run.job.judge_dataset or run.job.dataset
    assert judged is not None
    blobs = run.worker.blobs
    # With a table that the job names, the dataset is only judged on.
    is_apart = run.job.judge_dataset is not None or run.job.spec.table is not None
    calibration = None if is_apart else run.job.dataset
    return {
        "model": model_path(blobs, run.job.model, run.folder / "model"),
        "calibration": str(blobs.fetch(calibration.listing)) if calibration else None,
        "taken": taken_images(table),
        "judge": dataset_files(blobs, judged),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
    }


def taken_images(table: TableRow) -> int | None:
    """Return how many of the calibration images a table's observation looked at before it stopped; None: all."""
    return (table.facts.get("converge") or {}).get("taken")
