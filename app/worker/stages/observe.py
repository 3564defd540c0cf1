"""observe: images -> activations -> histograms, saved under the observation key."""

from app import keys
from app.db import results
from app.db.rows import ObservationRow
from app.worker.context import Run
from app.worker.files import dataset_files, model_path

STEP = "app.worker.steps.observe:observe"


def find_or_observe(run: Run) -> ObservationRow:
    """Return the job's observation, computed now unless somebody has."""
    key = keys.observation_key(run.job)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, ObservationRow, key)
        return known if known and run.worker.blobs.has(known.body) else _observe(run, key)


def _observe(run: Run, key: str) -> ObservationRow:
    run.enter("observe")
    assert run.job.dataset is not None
    body = run.folder / "observation"
    request = {
        "model": model_path(run.worker.blobs, run.job.model, run.folder / "model"),
        "dataset": dataset_files(run.worker.blobs, run.job.dataset),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
        "out": str(body),
    }
    report = run.child(STEP, request)
    row = ObservationRow(
        key=key,
        model_name=run.job.model.name,
        facts=keys.observation_facts(run.job),
        body=run.keep(body),
        report=report,
    )
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row
