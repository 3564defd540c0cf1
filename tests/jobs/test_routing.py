"""A job goes to the queue of a live worker that can build its engine, waits for one, or is refused; never silently."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.db import jobs, workers
from app.db.database import Database
from app.db.migrate import migrate
from app.db.rows import JobRow, WorkerRow, new_id
from app.jobs.caretaker import Caretaker
from app.jobs.queue import JobQueue, prepare_queue
from app.jobs.resolve import Fleet, find_job_queue
from app.jobs.tensorrt_spec import decide_for_tensorrt
from app.settings import Settings
from app.spec import JobSpec
from tests.worker.gpu_worker import BACKENDS, TOOLS


def worker_row(version: str, capability: str, **changes: Any) -> WorkerRow:
    facts = BACKENDS["tensorrt"] | {"version": version, "compute_capabilities": [capability]} | changes
    backends = {"onnxruntime": BACKENDS["onnxruntime"], "tensorrt": facts}
    queue = f"trt{'.'.join(version.split('.')[:2])}-sm{capability.replace('.', '')}"
    own = {"backends": backends, "tools": TOOLS.model_dump(mode="json"), "host": "elsewhere"}
    return WorkerRow(id=new_id("wrk"), queues=["cpu", queue], facts=own)


HOPPER = worker_row("10.6.0", "9.0")
AMPERE = worker_row("11.2.0", "8.6", quantizations=["explicit"], precisions=["fp32", "fp16", "int8"])
CPU = WorkerRow(id="cpu", queues=["cpu"], facts={"backends": {"onnxruntime": {"version": "1.32.0"}}})
FLEET = Fleet((AMPERE, HOPPER, CPU))


def spec_of(engine: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    made = {"backend": "tensorrt"} | engine if engine is not None else None
    return JobSpec.model_validate({"model": "m", "dataset": "d", "engine": made} | fields)


@pytest.mark.parametrize(
    ("spec", "queue"),
    [
        (spec_of({}), "trt11.2-sm86"),
        (spec_of({"compute_capability": "9.0"}), "trt10.6-sm90"),
        (spec_of({"quantization": "implicit"}), "trt10.6-sm90"),
        (spec_of({"precision": "bf16"}, calibration=None), "trt10.6-sm90"),
        (spec_of({"tensorrt_version": "10"}), "trt10.6-sm90"),
        (spec_of({"tensorrt_version": "10.6"}), "trt10.6-sm90"),
        (spec_of({"tensorrt_version": "1"}), None),
        (spec_of({"compute_capability": "8.9"}), None),
        (spec_of({"compute_capability": "8.9", "hardware_compatible": True}), "trt11.2-sm86"),
        (spec_of({"compute_capability": "7.5", "hardware_compatible": True}), None),
        (spec_of({"compute_capability": "8.6", "quantization": "implicit"}), None),
        (spec_of({}, calibration={"method": "native-entropy"}), "trt10.6-sm90"),
        (spec_of({"backend": "onnxruntime"}), "cpu"),
        (spec_of({"backend": "onnxruntime"}, calibration={"observer": "tensorrt"}), "trt11.2-sm86"),
        (spec_of(None, calibration={"observer": "tensorrt"}), "trt11.2-sm86"),
        (spec_of({"backend": "tensorrt-rtx", "compute_capability": "8.6"}), None),
    ],
)
def test_the_queue_is_that_of_a_worker_that_can(spec: JobSpec, queue: str | None) -> None:
    assert find_job_queue(spec, FLEET) == queue


def test_a_gpu_that_compatible_plans_do_not_run_on_builds_none() -> None:
    turing = Fleet((worker_row("10.6.0", "7.5"),))
    assert find_job_queue(spec_of({"hardware_compatible": True}), turing) is None
    assert find_job_queue(spec_of({}), turing) == "trt10.6-sm75"


def test_tensorrt_lets_int8_flow_and_computes_the_rest_in_fp16_unless_told() -> None:
    decided = decide_for_tensorrt(spec_of({})).quantize
    assert (decided.float_type, decided.placement) == ("fp16", "fused")
    assert decide_for_tensorrt(spec_of({}, quantize={"placement": "default"})).quantize.placement == "default"
    assert decide_for_tensorrt(spec_of({"quantization": "implicit"})).quantize.placement == "default"
    assert decide_for_tensorrt(spec_of({}, quantize={"float_type": "fp32"})).quantize.float_type == "fp32"
    assert decide_for_tensorrt(spec_of({"backend": "onnxruntime"})).quantize.float_type == "fp32"


def test_implicit_engines_need_every_activation() -> None:
    calibration = decide_for_tensorrt(spec_of({"quantization": "implicit"})).calibration
    assert calibration is not None
    assert calibration.observe == "all"


def test_a_job_that_waits_is_moved_to_the_first_worker_that_can(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, worker=False)
    prepare_queue(settings.effective_jobs_url)
    database, queue = Database(settings.effective_database_url), JobQueue(settings.effective_jobs_url)
    migrate(database)
    waiting, other = (_waiting(capability) for capability in ("9.0", "7.5"))
    with database.transaction() as session:
        for row in (waiting, other):
            jobs.add_job(session, row)
        workers.beat(session, worker_row("10.6.0", "9.0"))
    Caretaker(settings, database, queue).tick()
    with database.reading() as session:
        assert jobs.get_job(session, waiting.id).queue == "trt10.6-sm90"
        assert jobs.get_job(session, other.id).queue == "trt"
    assert (queue.standing(waiting.id), queue.standing(other.id)) == ("alive", "unknown")
    queue.close()
    database.close()


def test_a_job_whose_run_ended_before_it_began_is_enqueued_again(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, worker=False)
    prepare_queue(settings.effective_jobs_url)
    database, queue = Database(settings.effective_database_url), JobQueue(settings.effective_jobs_url)
    migrate(database)
    row = _waiting("9.0")
    row.queue, row.wait_until, row.created_at = "trt10.6-sm90", None, jobs.now() - timedelta(seconds=4)
    job_id = row.id
    with database.transaction() as session:
        jobs.add_job(session, row)
        workers.beat(session, worker_row("10.6.0", "9.0"))
    queue.put(job_id, "trt10.6-sm90", 1)
    queue.cancel(job_id)  # as if a worker had taken it and left it, for it was about to stop
    assert queue.standing(job_id) == "ended"
    Caretaker(settings, database, queue).tick()
    assert queue.standing(job_id) == "alive"
    queue.close()
    database.close()


@pytest.fixture
def caretaken(tmp_path: Path) -> Iterator[tuple[Caretaker, Database]]:
    """A caretaker whose jobs wait half a second for a worker that was lost."""
    settings = Settings(data=tmp_path, worker=False, lost_worker_seconds=0.5)
    prepare_queue(settings.effective_jobs_url)
    database, queue = Database(settings.effective_database_url), JobQueue(settings.effective_jobs_url)
    migrate(database)
    yield Caretaker(settings, database, queue), database
    queue.close()
    database.close()


def test_the_start_of_the_server_s_own_worker_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data=tmp_path, worker=True, dead_after_seconds=0.2)
    prepare_queue(settings.effective_jobs_url)
    database, queue = Database(settings.effective_database_url), JobQueue(settings.effective_jobs_url)
    migrate(database)
    row, worker = _waiting("9.0"), worker_row("10.6.0", "9.0")
    row.queue, row.wait_until = "trt10.6-sm90", None
    job_id = row.id
    with database.transaction() as session:
        jobs.add_job(session, row)
    caretaker = Caretaker(settings, database, queue)
    caretaker.tick()
    assert waits_of(database, job_id) == (False, 0)
    with database.transaction() as session:
        workers.beat(session, worker)
    caretaker.tick()
    monkeypatch.setattr("app.jobs.caretaker._START_SECONDS", 1.0)
    time.sleep(1.1)  # the server has been there for long; its worker is gone and started again
    caretaker.tick()
    time.sleep(0.2)
    caretaker.tick()
    assert waits_of(database, job_id) == (False, 0)
    time.sleep(1.0)
    caretaker.tick()
    assert waits_of(database, job_id) == (True, 1)
    queue.close()
    database.close()


@pytest.mark.parametrize(
    ("between", "waits"),
    [("nothing", (True, 1)), ("told", (True, 1)), ("claimed", (False, 0)), ("cancelled", (False, 0)), ("moved", (False, 0))],
)
def test_a_wait_is_told_once_and_of_a_job_that_still_waits(
    caretaken: tuple[Caretaker, Database], monkeypatch: pytest.MonkeyPatch, between: str, waits: tuple[bool, int]
) -> None:
    caretaker, database = caretaken
    row = _waiting("9.0")
    row.queue, row.wait_until = "trt10.6-sm90", None
    job_id = row.id
    with database.transaction() as session:
        jobs.add_job(session, row)
    with database.reading() as session:
        read = jobs.list_live_jobs(session)
    if between == "told":
        caretaker.tick()  # as another server's would
    with database.transaction() as session:
        if between == "claimed":
            assert jobs.start_attempt(session, job_id, "wrk_1")
        elif between == "cancelled":
            assert jobs.cancel_job(session, job_id)
        elif between == "moved":
            assert jobs.move_job(session, job_id, "trt10.7-sm90")
    monkeypatch.setattr(jobs, "list_live_jobs", lambda _session: read)
    caretaker.tick()
    assert waits_of(database, job_id) == waits


def test_a_wait_ends_once(caretaken: tuple[Caretaker, Database]) -> None:
    _, database = caretaken
    row = _waiting("9.0")
    job_id = row.id
    with database.transaction() as session:
        jobs.add_job(session, row)
        assert jobs.set_wait(session, job_id, "trt", None)
        assert not jobs.set_wait(session, job_id, "trt", None)


def waits_of(database: Database, job_id: str) -> tuple[bool, int]:
    """Return whether the job waits for a worker, and how many lines its log has."""
    with database.reading() as session:
        logged = [event for event in jobs.list_events(session, job_id, 0) if event.kind == "log"]
        return jobs.get_job(session, job_id).wait_until is not None, len(logged)


def test_a_job_whose_only_worker_is_lost_waits_a_while_and_says_so(caretaken: tuple[Caretaker, Database]) -> None:
    caretaker, database = caretaken
    row = _waiting("9.0")
    row.queue, row.wait_until, row.attempt = "trt10.6-sm90", None, 1  # its worker's GPU is gone, so it was given back
    job_id = row.id
    with database.transaction() as session:
        jobs.add_job(session, row)
    caretaker.tick()
    with database.reading() as session:
        lines = [event.body["line"] for event in jobs.list_events(session, job_id, 0) if event.kind == "log"]
        assert jobs.get_job(session, job_id).state == "queued"
    assert [line for line in lines if "tensorrt int8 explicit for compute capability 9.0" in line]
    time.sleep(0.6)
    caretaker.tick()
    with database.reading() as session:
        ended = jobs.get_job(session, job_id)
    assert (ended.state, (ended.error or {})["code"]) == ("failed", "worker_unavailable")
    assert "tensorrt int8 explicit for compute capability 9.0" in (ended.error or {})["detail"]


def test_a_lost_worker_that_comes_back_is_waited_for_anew(caretaken: tuple[Caretaker, Database]) -> None:
    caretaker, database = caretaken
    row = _waiting("9.0")
    row.queue, row.wait_until = "trt10.6-sm90", None
    job_id, worker = row.id, worker_row("10.6.0", "9.0")
    worker_id = worker.id
    with database.transaction() as session:
        jobs.add_job(session, row)
    caretaker.tick()
    with database.transaction() as session:
        workers.beat(session, worker)
    time.sleep(0.6)
    caretaker.tick()
    with database.transaction() as session:
        assert jobs.get_job(session, job_id).wait_until is None
        workers.remove_worker(session, worker_id)
    caretaker.tick()
    with database.reading() as session:
        assert jobs.get_job(session, job_id).state == "queued"


def _waiting(capability: str) -> JobRow:
    resolved = {"spec": spec_of({"compute_capability": capability}).model_dump(mode="json")}
    return JobRow(
        id=new_id("job"), key=new_id("key"), state="queued", queue="trt", priority=1, attempt=0, crashes=0, resolved=resolved,
        cache={}, warnings=[], progress_done=0, wait_until=jobs.now() + timedelta(seconds=60), created_at=jobs.now(),
    )  # fmt: skip
