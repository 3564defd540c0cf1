"""A worker's heartbeat, and the reaper of workers that have none: DBOS itself does not notice a dead executor."""

import os
import platform
import shutil
import socket
import threading
from typing import Any

import psutil
import structlog
from dbos import DBOS

from app.db import workers
from app.db.rows import WorkerRow
from app.errors import Problem
from app.worker.context import Worker, worker_folder

log = structlog.get_logger()


def place() -> dict[str, Any]:
    """Return where this process runs, so that a neighbour can see at once that it is gone."""
    namespace = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""  # noqa: PTH110, PTH115
    return {
        "host": socket.gethostname(),
        "pid_namespace": namespace,
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
    }


class Heartbeat(threading.Thread):
    """A thread that says that this worker lives, and hands the jobs of dead ones to the living, until `stop()`."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._worker = worker
        #: The queues that are served by now.
        self.queues: list[str] = []
        self._stopping = threading.Event()
        machine = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        }
        self._facts = place() | machine | {"backends": worker.backends, "tools": worker.tools.model_dump(mode="json")}

    def beat(self) -> None:
        """Write one heartbeat; the first must be in the table before the worker takes a job."""
        row = WorkerRow(id=self._worker.id, queues=self.queues, facts=self._facts)
        with self._worker.database.transaction() as session:
            workers.beat(session, row)

    def run(self) -> None:
        pause = min(1.0, self._worker.settings.heartbeat_seconds)
        while not self._stopping.wait(pause):
            pause = self._worker.settings.heartbeat_seconds
            try:
                self.beat()
                self._reap()
            except Problem as problem:
                log.warning("heartbeat missed", problem=problem.slug)

    def stop(self) -> None:
        """Stop beating and leave the table, so that the jobs left behind move on at once."""
        self._stopping.set()
        self.join(timeout=5)
        with self._worker.database.transaction() as session:
            workers.remove_worker(session, self._worker.id)

    def _reap(self) -> None:
        with self._worker.database.reading() as session:
            known = workers.list_workers(session)
        dead = [row.id for row, age in known if age > self._worker.settings.dead_after_seconds or _is_gone(row.facts)]
        for worker_id in dead:
            shutil.rmtree(worker_folder(self._worker.settings, worker_id), ignore_errors=True)
            with self._worker.database.transaction() as session:
                workers.remove_worker(session, worker_id)
        self._recover({row.id for row, _ in known} - set(dead))

    def _recover(self, alive: set[str]) -> None:
        # Stateless on purpose: whatever is pending on an executor without a heartbeat is recovered, each tick anew.
        pending = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        lost = sorted({workflow.executor_id for workflow in pending if workflow.executor_id} - alive)
        if lost:
            recovered = [handle.get_workflow_id() for handle in DBOS._recover_pending_workflows(lost)]
            log.warning("jobs of dead workers recovered", workers=lost, jobs=recovered)


def _is_gone(facts: dict[str, Any]) -> bool:
    here = place()
    if (facts.get("host"), facts.get("pid_namespace")) != (here["host"], here["pid_namespace"]):
        return False
    return _started(facts["pid"]) != facts["pid_started"]


def _started(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
