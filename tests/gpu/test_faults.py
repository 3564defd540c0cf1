"""Faults on the real GPU, provoked harmlessly: memory that others hold, a build that takes too long."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from app.cuda.buffers import DeviceBuffer
from app.cuda.device import Device, get_driver
from app.db import jobs
from app.db.rows import TimingCacheRow
from app.errors import GpuOom
from app.worker.context import Run
from app.worker.pipeline import finish
from app.worker.stages.build import find_or_build
from tests.worker.gpu_worker import gpu_run, job_row

#: What is left when the rest is taken: less than a CUDA context needs.
_LEFT_BYTES = 64 << 20
#: CUDA gives memory of ended processes back in its own time, and the driver keeps a little.
_SLACK_BYTES = 1 << 30


def run_job(folder: Path, level: int = 0, build_seconds: float = 120) -> AbstractContextManager[Run]:
    """Give the run of a job that wants the digits CNN in fp16."""
    shapes = {"input": {"min": [1, 1, 28, 28], "opt": [8, 1, 28, 28], "max": [32, 1, 28, 28]}}
    engine = {"backend": "tensorrt", "precision": "fp16", "optimization_level": level, "shapes": shapes}
    return gpu_run(folder, {"engine": engine}, build_seconds=build_seconds)


def take_memory() -> DeviceBuffer:
    """Take what is free of the GPU's memory but for a little."""
    free, _ = get_driver().mem_get_info()
    return DeviceBuffer(free - _LEFT_BYTES)


def log_of(run: Run) -> list[str]:
    """Return the lines of the job's log."""
    with run.worker.database.reading() as session:
        return [event.body["line"] for event in jobs.list_events(session, run.fence.job_id, 0, 10_000) if event.kind == "log"]


def test_a_build_that_finds_the_memory_taken_is_tried_once_more(
    tmp_path: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_job(tmp_path) as run:
        taken, said = take_memory(), run.say

        def say(line: str) -> None:
            said(line)
            if "once more" in line:
                taken.free()

        monkeypatch.setattr(run, "say", say)
        row = find_or_build(run, None)
        assert row.facts["built_again"]["after"] == "gpu_oom"
        assert row.facts["layers"]["fp16"] > 0
        finish(run, crashes=0)
        assert job_row(run).state == "succeeded"


def test_memory_that_stays_taken_fails_the_job_and_the_next_one_works(tmp_path: Path, gpu: Device) -> None:
    with run_job(tmp_path) as run:
        with take_memory(), pytest.raises(GpuOom):
            find_or_build(run, None)
        assert sum("once more" in line for line in log_of(run)) == 1
        assert find_or_build(run, None).facts["layers"]["fp16"] > 0


def test_a_build_that_takes_too_long_is_ended_and_gives_its_memory_back(tmp_path: Path, gpu: Device) -> None:
    before, _ = get_driver().mem_get_info()
    with run_job(tmp_path, level=5, build_seconds=3) as run:
        finish(run, crashes=0)
        error = job_row(run).error
        assert error is not None
        assert error["code"] == "build_timeout"
    after, _ = get_driver().mem_get_info()
    assert after > before - _SLACK_BYTES


def test_timings_are_kept_for_the_fleet_and_taken_by_another_job(
    tmp_path: Path, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_job(tmp_path, level=1) as run:
        find_or_build(run, None)
        first = stored_timings(run)
        engine = run.job.spec.engine
        assert engine is not None
        changed = run.job.spec.model_copy(update={"engine": engine.model_copy(update={"tf32": True})})
        run.job = run.job.model_copy(update={"spec": changed})
        (run.folder / "timings").unlink(missing_ok=True)  # another job has a folder of its own
        given, child = [], run.child

        def look(target: str, request: dict[str, Any]) -> dict[str, Any]:
            given.append(Path(request["timing_cache"]).read_bytes())
            return child(target, request)

        monkeypatch.setattr(run, "child", look)
        find_or_build(run, None)
        assert given == [first]
        assert len(stored_timings(run)) >= len(first) > 0
        assert not [line for line in log_of(run) if "timing cache will not be used" in line]  # as it says of a spoilt one


def stored_timings(run: Run) -> bytes:
    """Return the only timing cache that is stored."""
    with run.worker.database.reading() as session:
        (row,) = session.query(TimingCacheRow).all()
        return run.worker.blobs.fetch(row.body).read_bytes()
