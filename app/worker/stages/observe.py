"""observe: images -> activations -> histograms, saved under the observation key."""

from pathlib import Path
from typing import Any

from app import keys
from app.db import results
from app.db.rows import ObservationRow
from app.errors import BlobCorrupt
from app.resolved import ResolvedJob
from app.worker.context import Run
from app.worker.files import dataset_files
from app.worker.known import Known, find_known
from app.worker.stages.prepare import find_or_prepare
from app.worker.tools import is_observed_on_gpu

STEP = "app.worker.steps.observe:observe"
MERGE_STEP = "app.worker.steps.merge:merge"

#: A process takes seconds to start; with fewer images another GPU is not worth it.
_LEAST_IMAGES_A_GPU = 256


def find_or_observe(run: Run) -> ObservationRow:
    """Return the job's observation, computed now unless somebody has."""
    key = keys.observation_key(run.job)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_by_key(session, ObservationRow, key)
        return known if known and run.worker.blobs.has(known.body) else _observe(run, key)


def _observe(run: Run, key: str) -> ObservationRow:
    run.enter("observe")
    known = _find_known(run)
    if known is not None:
        run.say(known.told)
    row = ObservationRow(key=key, model_name=run.job.model.name, facts=keys.observation_facts(run.job))
    if known is not None and not known.added:
        row.body, row.report = known.row.body, known.row.report | {"known": known.images, "converge": None}
    else:
        request = _request(run, known) | {"out": str(run.folder / "observation")}
        shards = _count_shards(run, known)
        row.report = run.child(STEP, request) if shards == 1 else _observe_shards(run, request, shards)
        row.body = run.keep(Path(request["out"]))
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)
    run.fail_point("after")
    return row


def _count_shards(run: Run, known: Known | None) -> int:
    assert run.job.dataset is not None
    assert run.job.spec.calibration is not None
    calibration = run.job.spec.calibration
    images = known.added if known else min(run.job.dataset.images, calibration.max_images or run.job.dataset.images)
    gpus = len(run.worker.backends.get("tensorrt", {}).get("gpus", ()))
    return min(calibration.shards or default_shards(run.job, gpus, images), images)


def default_shards(job: ResolvedJob, gpus: int, images: int) -> int:
    """Return how many processes observe where the job does not say: one, or one a GPU where each has enough to do."""
    calibration = job.spec.calibration
    can_merge = calibration is not None and calibration.grid == "mergeable" and calibration.converge is None
    if not can_merge or not is_observed_on_gpu(job.spec):
        return 1
    return max(1, min(gpus, images // _LEAST_IMAGES_A_GPU))


def _observe_shards(run: Run, request: dict[str, Any], shards: int) -> dict[str, Any]:
    """Observe contiguous parts of the images in a process each, then merge them: the same bytes as from one process."""
    out = request["out"]
    requests = [request | {"part": [number, shards], "out": f"{out}-{number}"} for number in range(shards)]
    reports = run.children(STEP, requests)
    parts = [part["out"] for part in requests]
    return run.child(MERGE_STEP, {"parts": parts, "known": request["known"], "reports": reports, "out": out})


def _request(run: Run, known: Known | None) -> dict[str, Any]:
    assert run.job.dataset is not None
    blobs = run.worker.blobs
    return {
        "prepared": find_or_prepare(run),
        "dataset": dataset_files(blobs, run.job.dataset, known.packs if known else None),
        "spec": run.job.spec.model_dump(mode="json"),
        "limits": run.worker.settings.input_limits.model_dump(mode="json"),
        "known": _known_files(run, known) if known else None,
        "part": None,
        "observer": run.job.tools.observer.split()[0],
    }


def _known_files(run: Run, known: Known) -> dict[str, Any]:
    fetch = run.worker.blobs.fetch
    files = {"observation": str(fetch(known.row.body)), "listing": str(fetch(known.row.facts["listing"]))}
    report = known.row.report
    facts = {"drift": report.get("drift"), "constant_images": report.get("constant_images", [])}
    return {"images": known.images} | files | facts


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
