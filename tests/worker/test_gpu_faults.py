"""A GPU that runs out of memory, hangs, crashes its process or is gone: what becomes of the job, and of the worker."""

from pathlib import Path

import pytest

from app.db import results
from app.db.rows import EngineRow, TimingCacheRow
from app.errors import BuildTimeout, CrashLoop, GpuLost, GpuOom
from app.worker.context import WorkerStopping
from app.worker.pipeline import finish
from app.worker.stages import build, derive, memory
from app.worker.stages.timings import fetch_timings
from tests.worker.gpu_worker import gpu_run, job_row

FAULTS = "tests.child.faults"


@pytest.fixture(autouse=True)
def _tests_are_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[1] / "child" / "run_fault.py"
    monkeypatch.setattr("app.child.process.CHILD_MODULE", ["-c", source.read_text(encoding="utf-8")])
    monkeypatch.setattr("app.worker.context.PROBE_STEP", f"{FAULTS}:probe_with_gpu")


def test_out_of_gpu_memory_is_tried_once_more_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:out_of_gpu_memory")
    with gpu_run(tmp_path) as run:
        assert run.job.spec.engine is not None
        engine = run.job.spec.engine.model_copy(update={"workspace_bytes": 2 << 30})
        run.job = run.job.model_copy(update={"spec": run.job.spec.model_copy(update={"engine": engine})})
        row = build.find_or_build(run, None)
        assert row.facts["built_again"] == {"after": "gpu_oom", "workspace_bytes": 1 << 29}
        finish(run, crashes=0)
        assert job_row(run).state == "succeeded"


def test_a_native_calibration_without_memory_is_tried_once_more_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derive, "CALIBRATE_STEP", f"{FAULTS}:calibrate_in_little_memory")
    engine = {"backend": "tensorrt", "workspace_bytes": 4 << 30}
    job = {"dataset": "d", "calibration": {"method": "native-entropy"}, "engine": engine}
    with gpu_run(tmp_path, job) as run:
        table = derive.find_or_derive(run)
        assert table.facts["calibrated_again"] == {"after": "gpu_oom", "workspace_bytes": 1 << 30}


def test_timings_of_one_build_are_there_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:out_of_gpu_memory")
    monkeypatch.setattr(memory, "_LESS_WORKSPACE", 1 << 20)
    with gpu_run(tmp_path) as run:
        build.find_or_build(run, None)
        with run.worker.database.reading() as session:
            (row,) = session.query(TimingCacheRow).all()
        assert row.facts == {"tensorrt": "10.6.0", "gpu": "NVIDIA H200", "driver": "580.65.06"}
        fetch_timings(run, tmp_path / "fetched")
        assert (tmp_path / "fetched").read_bytes() == b"timings"


def test_gpu_memory_that_never_suffices_fails_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:no_gpu_memory_at_all")
    with gpu_run(tmp_path) as run:
        with pytest.raises(GpuOom, match="out of memory"):
            build.find_or_build(run, None)
        finish(run, crashes=0)
        assert job_row(run).error["code"] == "gpu_oom"  # type: ignore[index]


def test_a_gpu_that_answers_again_is_tried_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:lose_gpu")
    with gpu_run(tmp_path) as run:
        with pytest.raises(GpuLost, match="unknown error"):
            build.find_or_build(run, None)
        assert (run.folder / "plan-fp16").read_text().count("tried") == run.worker.settings.max_crashes
        assert not run.worker.stopping.is_set()


def test_a_gpu_that_is_gone_ends_the_worker_and_the_job_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:lose_gpu")
    monkeypatch.setattr("app.worker.context.PROBE_STEP", f"{FAULTS}:probe_without_gpu")
    with gpu_run(tmp_path) as run:
        with pytest.raises(WorkerStopping):
            build.find_or_build(run, None)
        assert run.worker.stopping.is_set()
        finish(run, crashes=0)
        row = job_row(run)
        assert (row.state, row.crashes, row.error) == ("queued", 0, None)


@pytest.mark.parametrize(("fault", "problem"), [("segfault", CrashLoop), ("hang", BuildTimeout)])
def test_a_build_that_crashes_or_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, problem: type[Exception]
) -> None:
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:{fault}")
    with gpu_run(tmp_path, build_seconds=2) as run:
        with pytest.raises(problem):
            build.find_or_build(run, None)
        with run.worker.database.reading() as session:
            assert results.find_engine(session, "any") is None
            assert session.query(EngineRow).count() == 0
