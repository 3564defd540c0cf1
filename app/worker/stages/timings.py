"""TensorRT's timing cache: what one build measured, every later one on a like machine reads, whichever worker it is on."""

import shutil
from pathlib import Path
from typing import Any

from app import keys
from app.db import results
from app.db.rows import TimingCacheRow
from app.errors import BlobCorrupt
from app.worker.context import Run


def fetch_timings(run: Run, path: Path) -> None:
    """Lay the fleet's timings for this worker's GPU at path; nothing where there are none yet."""
    with run.worker.database.reading() as session:
        known = results.find_by_key(session, TimingCacheRow, keys.key_from(**_facts(run)))
    if known is None:
        return
    try:
        shutil.copyfile(run.worker.blobs.fetch(known.body), path)
    except BlobCorrupt as problem:
        run.say(f"the timing cache cannot be read, so all is measured anew: {problem.detail}")


def keep_timings(run: Run, path: Path) -> None:
    """Store what is at path now as the fleet's timings for this worker's GPU."""
    if not path.exists():
        return
    row = TimingCacheRow(key=keys.key_from(**_facts(run)), facts=_facts(run), body=run.keep(path))
    with run.worker.database.transaction() as session:
        results.save_by_key(session, row)


def _facts(run: Run) -> dict[str, Any]:
    backend = run.worker.backends["tensorrt"]
    gpu = backend["gpus"][0]
    return {"tensorrt": backend["version"], "gpu": gpu["name"], "driver": gpu["driver"]}
