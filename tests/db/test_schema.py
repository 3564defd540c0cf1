"""The migrations make exactly the schema of the rows, on SQLite and on Postgres."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.db import jobs, results, uploads, workers
from app.db.database import Database, clock
from app.db.jobs import Fence
from app.db.migrate import migrate
from app.db.rows import Base, JobRow, ModelRow, TableRow, WorkerRow, new_id
from app.errors import DatabaseUnavailable
from tests.services import running_postgres


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/app.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Database(url)
    migrate(opened)
    yield opened
    opened.close()


def job_row(key: str) -> JobRow:
    return JobRow(
        id=new_id("job"), key=key, state="queued", queue="cpu", priority=1, resolved={}, cache={}, warnings=[], attempt=0,
        crashes=0, progress_done=0,
    )  # fmt: skip


def test_migrations_match_the_rows(database: Database) -> None:
    migrate(database)
    with database.migration_connection() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_single_flight_is_the_database_s(database: Database) -> None:
    key = new_id("key")
    with database.transaction() as session:
        first, joined = jobs.add_job(session, job_row(key))
    assert not joined
    with database.transaction() as session:
        second, joined = jobs.add_job(session, job_row(key))
    assert (joined, second.id) == (True, first.id)
    with database.transaction() as session:
        assert jobs.cancel_job(session, first.id)
    with database.transaction() as session:
        third, joined = jobs.add_job(session, job_row(key))
    assert (joined, third.id == first.id) == (False, False)


def test_only_the_newest_attempt_writes(database: Database) -> None:
    with database.transaction() as session:
        row, _ = jobs.add_job(session, job_row(new_id("key")))
    with database.transaction() as session:
        first = jobs.start_attempt(session, row.id, "worker-1")
        assert first is not None
        old = Fence(row.id, first.attempt)
    with database.transaction() as session:
        second = jobs.start_attempt(session, row.id, "worker-2")
        assert second is not None
        assert (second.attempt, second.crashes) == (2, 1)
    with database.transaction() as session:
        assert not jobs.change_job(session, old, stage="observe")
        assert not jobs.end_job(session, old, "succeeded")
        assert jobs.end_job(session, Fence(row.id, 2), "failed", error={"code": "x"})
        assert not jobs.end_job(session, Fence(row.id, 2), "succeeded")
    with database.transaction() as session:
        assert jobs.start_attempt(session, row.id, "worker-3") is None
        kinds = [event.kind for event in jobs.list_events(session, row.id, 0)]
    assert kinds == ["stage", "done"]


def test_released_job_counts_no_crash(database: Database) -> None:
    with database.transaction() as session:
        row, _ = jobs.add_job(session, job_row(new_id("key")))
        jobs.start_attempt(session, row.id, "worker-1")
    with database.transaction() as session:
        assert jobs.release_job(session, Fence(row.id, 1))
    with database.transaction() as session:
        again = jobs.start_attempt(session, row.id, "worker-2")
        assert again is not None
        assert (again.attempt, again.crashes) == (2, 0)


def test_claim_is_taken_over_only_from_the_dead(database: Database) -> None:
    key = new_id("claim")
    with database.transaction() as session:
        first, _ = jobs.add_job(session, job_row(new_id("key")))
        second, _ = jobs.add_job(session, job_row(new_id("key")))
        for name in ("worker-1", "worker-2", "worker-3"):
            workers.beat(session, WorkerRow(id=name, queues=["cpu"], facts={}))
        jobs.start_attempt(session, first.id, "worker-1")
        jobs.start_attempt(session, second.id, "worker-2")
    with database.transaction() as session:
        assert workers.claim_step(session, key, first.id, 1)
    with database.transaction() as session:
        assert not workers.claim_step(session, key, second.id, 1)
    with database.transaction() as session:
        jobs.start_attempt(session, first.id, "worker-3")
    with database.transaction() as session:
        assert workers.claim_step(session, key, second.id, 1)
        assert not workers.claim_step(session, key, first.id, 2)


def test_a_job_that_was_taken_meanwhile_is_not_failed_for_want_of_a_worker(database: Database) -> None:
    with database.transaction() as session:
        first, _ = jobs.add_job(session, job_row(new_id("key")))
        second, _ = jobs.add_job(session, job_row(new_id("key")))
        jobs.start_attempt(session, first.id, new_id("worker"))
        assert not jobs.fail_queued_job(session, first.id, {"code": "worker_unavailable"})
        assert jobs.fail_queued_job(session, second.id, {"code": "worker_unavailable"})
    with database.reading() as session:
        assert [jobs.get_job(session, row.id).state for row in (first, second)] == ["running", "failed"]


def test_the_claim_of_a_job_that_waits_for_another_worker_is_free(database: Database) -> None:
    key, first_worker, second_worker = new_id("claim"), new_id("worker"), new_id("worker")
    with database.transaction() as session:
        first, _ = jobs.add_job(session, job_row(new_id("key")))
        second, _ = jobs.add_job(session, job_row(new_id("key")))
        for name, job in ((first_worker, first), (second_worker, second)):
            workers.beat(session, WorkerRow(id=name, queues=["cpu"], facts={}))
            jobs.start_attempt(session, job.id, name)
        assert workers.claim_step(session, key, first.id, 1)
    with database.transaction() as session:
        assert not workers.claim_step(session, key, second.id, 1)
        workers.remove_worker(
            session, first_worker
        )  # dead; the only other one has the second job, and the first is in its queue
    with database.transaction() as session:
        assert jobs.get_job(session, first.id).state == "running"
        assert workers.claim_step(session, key, second.id, 1)


def test_heartbeats_use_the_database_s_clock(database: Database) -> None:
    row = WorkerRow(id=new_id("worker"), queues=["cpu"], facts={})
    with database.transaction() as session:
        workers.beat(session, row)
        assert abs(clock(session) - row.beat) < 5
        ages = {known.id: age for known, age in workers.list_workers(session)}
    assert 0 <= ages[row.id] < 5


def test_name_points_to_its_last_upload(database: Database) -> None:
    def put(digest: str) -> str:
        row = ModelRow(name="name", digest=digest * 64, files=[], facts={"inputs": []}, bytes=1)
        with database.transaction() as session:
            return uploads.save_upload(session, row)[0].id

    first, second = put("a"), put("b")
    with database.reading() as session:
        assert uploads.get_upload(session, ModelRow, "name").id == second
        assert uploads.get_upload(session, ModelRow, first).id == first
    assert put("a") == first
    with database.reading() as session:
        assert uploads.get_upload(session, ModelRow, "name").id == first


def test_database_that_is_not_there() -> None:
    gone = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable), gone.reading() as session:
        clock(session)


def test_patient_database_waits_for_a_long_lock(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    patient = Database(url, patience_seconds=30)
    migrate(patient)
    holder = sqlite3.connect(tmp_path / "app.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(11.5, holder.execute, ["ROLLBACK"])  # SQLite itself gives up after 10 seconds
    release.start()
    with patient.transaction() as session:
        assert clock(session) > 0
    patient.close()
    release.join()
    holder.close()


def test_two_imports_of_one_cache_at_once_are_one_table(database: Database) -> None:
    with database.transaction() as session:
        model = uploads.save_upload(session, ModelRow(name="m", digest=new_id("d"), files=[], facts={}, bytes=0))[0]
        model_id, key = model.id, new_id("key")

    def imported() -> TableRow:
        return TableRow(
            key=key, origin="imported", method="minmax", model_id=model_id, observation_key=None, body="b", facts={}
        )  # fmt: skip

    def save_later() -> str:
        with database.transaction() as session:
            return results.save_imported_table(session, imported()).id

    with ThreadPoolExecutor(1) as other:
        with database.transaction() as session:
            first = results.save_imported_table(session, imported()).id
            second = other.submit(save_later)  # waits for this one, which it cannot see
            wait([second], timeout=1)
        assert second.result(30) == first


def test_the_last_import_is_found_among_those_of_the_same_weights(database: Database) -> None:
    with database.transaction() as session:
        model = uploads.save_upload(session, ModelRow(name="m", digest=new_id("d"), files=[], facts={}, bytes=0))[0]
        model_id, digest = model.id, model.digest

    def save(body: str, equalizer: str | None) -> str:
        facts = {"equalizer": equalizer} if body != "old" else {}  # as rows from before had none
        row = TableRow(
            key=new_id(body),
            origin="imported",
            method="minmax",
            model_id=model_id,
            observation_key=None,
            body=body,
            facts=facts,
        )
        with database.transaction() as session:
            return results.save_imported_table(session, row).id

    old, plain, even = save("old", None), save("plain", None), save("even", "cross-layer/1")

    def last(equalizer: str | None) -> str | None:
        with database.reading() as session:
            row = results.find_imported_table(session, digest, equalizer)
            return row.id if row else None

    assert (last(None), last("cross-layer/1"), last("by hand")) == (plain, even, None)
    with database.transaction() as session:
        results.save_imported_table(session, results.get_table(session, old))
    assert last(None) == old
