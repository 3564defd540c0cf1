"""The API's caretaker: jobs that were committed but not enqueued, that wait for a worker in vain, or whose run is lost."""

import threading
import time
from datetime import UTC, datetime, timedelta

import structlog

from app.db import jobs
from app.db.database import Database
from app.db.rows import JobRow
from app.errors import Problem, WorkerUnavailable
from app.jobs.queue import JobQueue
from app.jobs.resolve import Fleet, describe_need, find_job_queue, live_fleet
from app.settings import Settings
from app.spec import JobSpec

log = structlog.get_logger()

_TICK_SECONDS = 1.0
_START_SECONDS = 60.0
#: An enqueued job's row is this old before it counts as an orphan: the API enqueues right after its commit.
_ORPHAN_AGE = timedelta(seconds=3)
#: A running job whose workflow has ended gets so long to write its own end; then its run counts as a crash.
_LOST_AGE = timedelta(seconds=30)


class Caretaker(threading.Thread):
    """A thread that looks after live jobs once a second until `stop()`."""

    def __init__(self, settings: Settings, database: Database, queue: JobQueue) -> None:
        super().__init__(name="caretaker", daemon=True)
        self._settings, self._database, self._queue = settings, database, queue
        self._stopping = threading.Event()
        self._starting_since: float | None = None

    def run(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            try:
                self.tick()
            except Problem as problem:
                log.warning("caretaker waits", problem=problem.slug)

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=5)

    def tick(self) -> None:
        """Look at every live job once."""
        with self._database.reading() as session:
            live = jobs.list_live_jobs(session)
            fleet = live_fleet(session, self._settings)
        is_settled = self._is_settled(fleet)
        for row in live:
            if row.state != "queued" or row.queue in fleet.queues or not self._moved(row, fleet):
                self._look_after(row, fleet.queues, is_settled)

    def _is_settled(self, fleet: Fleet) -> bool:
        # While the server's own worker is on its way, as after each of its ends, nothing counts as lost and nobody's
        # patience ends, unless it takes too long.
        if not fleet.is_starting:
            self._starting_since = None
            return True
        self._starting_since = self._starting_since or time.monotonic()
        return time.monotonic() - self._starting_since > _START_SECONDS

    def _moved(self, row: JobRow, fleet: Fleet) -> bool:
        """Hand a job whose queue nobody serves to a live worker that can do it: another version, or the first of its kind."""
        queue = find_job_queue(JobSpec.model_validate(row.resolved["spec"]), fleet)
        if queue is None:
            return False
        with self._database.transaction() as session:
            was_queued = jobs.move_job(session, row.id, queue)
        if was_queued:
            log.info("job moved", job=row.id, queue=queue)
            self._queue.put_again(row.id, queue, row.priority)
        return was_queued

    def _look_after(self, row: JobRow, queues: set[str], is_settled: bool) -> None:
        now = datetime.now(UTC)
        is_vain = row.wait_until is not None and row.wait_until < now and row.queue not in queues
        if row.state == "queued" and is_settled:
            self._watch_wait(row, row.queue in queues, now)
        if row.state == "queued" and is_vain and is_settled:
            self._end(row, WorkerUnavailable(capability=_need(row), live=sorted(queues) or "nothing"))
        elif (row.state == "queued" and (row.attempt or now - row.created_at > _ORPHAN_AGE)) or _is_old(row, now):
            self._enqueue_lost(row)

    def _enqueue_lost(self, row: JobRow) -> None:
        """Enqueue a job that stands in no queue: it never came there, or its run ended without ending it."""
        standing = self._queue.standing(row.id)
        if standing == "unknown" and row.state == "queued":
            log.info("orphan enqueued", job=row.id)
            self._queue.put(row.id, row.queue, row.priority)
        elif standing == "ended":
            log.info("job enqueued again", job=row.id, state=row.state)
            self._queue.put_again(row.id, row.queue, row.priority)

    def _watch_wait(self, row: JobRow, is_served: bool, now: datetime) -> None:
        """Let a job wait, not for ever and not in silence, once the last worker of its queue is lost, until one is back."""
        if is_served == (row.wait_until is None):
            return
        seconds = max(self._settings.lost_worker_seconds, row.resolved["spec"]["wait_for_worker_seconds"])
        until = None if is_served else now + timedelta(seconds=seconds)
        with self._database.transaction() as session:
            if jobs.set_wait(session, row.id, row.queue, until) and until is not None:
                line = f"no live worker serves {_need(row)} any more; the job waits {seconds:.0f} seconds for one"
                jobs.add_event(session, row.id, "log", {"stage": None, "line": line})

    def _end(self, row: JobRow, problem: Problem) -> None:
        with self._database.transaction() as session:
            jobs.fail_queued_job(session, row.id, problem.to_job_error())


def _need(row: JobRow) -> str:
    return describe_need(JobSpec.model_validate(row.resolved["spec"]))


def _is_old(row: JobRow, now: datetime) -> bool:
    return now - (row.stage_started_at or row.created_at) > _LOST_AGE
