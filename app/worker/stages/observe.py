"""observe: images -> activations -> histograms, saved under the observation key."""

from typing import Any

from app import keys
from app.db import results
from app.db.rows import ObservationRow
from app.errors import BlobCorrupt
from app.worker.context import Run
from app.worker.files import dataset_files, model_path
from app.worker.known import Known, find_known

STEP = "app.worker.steps.observe:observe"


def find_or_observe(run: Run) -> ObservationRow:
    """Return the job's observation, computed now unless somebody has."""
    key = keys.observation_key(run.job)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, ObservationRow, key)
        return known or _observe(run, key)


def _observe(run: Run, key: str) -> ObservationRow:
    run.enter("observe")
    known = _find_known(run)
    if known is not None:
        run.say(known.told)
    row = ObservationRow(key=key, model_name=run.job.model.name, facts=keys.observation_facts(run.job))
    if known is not None and not known.added:
        row.body, row.report = known.row.body, known.row.report | {"known": known.images}
    else:
        body = run.folder / "observation"
        row.report = run.child(STEP, _request(run, known) | {"out": str(body)})
        row.body = run.keep(body)
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row


def _request(run: Run, known: Known | None) -> dict[str, Any]:
    assert run.job.dataset is not None
    blobs = run.worker.blobs
    return {
        "model": model_path(blobs, run.job.model, run.folder / "model"),
        "dataset": dataset_files(blobs, run.job.dataset, known.packs if known else None),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
        "known": _known_files(run, known) if known else None,
    }


def _known_files(run: Run, known: Known) -> dict[str, str]:
    fetch = run.worker.blobs.fetch
    return {"observation": str(fetch(known.row.body)), "listing": str(fetch(known.row.facts["listing"]))}


def _find_known(run: Run) -> Known | None:
    with run.worker.database.reading() as session:
        known = find_known(session, run.worker.blobs, run.job)
    try:
        if known is not None:
            run.worker.blobs.fetch(known.row.body)
        return known
    except BlobCorrupt as problem:
        run.say(f"an earlier observation cannot be read, so all images are run: {problem.detail}")
        return None
