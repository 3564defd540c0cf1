"""What a worker process works with, and one job's run in it."""

import asyncio
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from app.blobs.store import BlobStore, sha256_of
from app.child.parent import ChildCall, Take, no_child, run_child, run_children
from app.db import jobs, workers
from app.db.database import Database
from app.db.jobs import Fence
from app.errors import CrashLoop, GpuLost, Problem, WorkerCrashed, WorkerProblem
from app.resolved import ResolvedJob, Tools
from app.settings import Settings
from app.spec import JobSpec
from app.worker.room import make_room
from app.worker.tools import tools_for_job

log = structlog.get_logger()

Answer = TypeVar("Answer")

PROBE_STEP = "app.worker.steps.probe:probe"
WARM_UP = "app.worker.steps.warm:warm_up"

#: Progress is told at most so often.
_PROGRESS_SECONDS = 0.25
_CLAIM_POLL_SECONDS = 0.5


class JobLost(Exception):
    """This attempt may not go on: the job was cancelled, or is another worker's now."""


class WorkerStopping(Exception):
    """The worker is shutting down; the job goes back to its queue."""


@dataclass(frozen=True)
class Worker:
    """One worker process."""

    id: str
    settings: Settings
    database: Database
    blobs: BlobStore
    backends: dict[str, dict[str, Any]]
    tools: Tools
    stopping: threading.Event = field(default_factory=threading.Event)
    take: Take = no_child

    def tools_for(self, spec: JobSpec) -> Tools:
        """Return the tools of a job, as they are installed here."""
        return tools_for_job(self.tools, self.backends, spec)


@dataclass
class Run:
    """One attempt of one job."""

    worker: Worker
    fence: Fence
    job: ResolvedJob
    folder: Path
    stage: str = ""
    _told_at: float = 0.0

    def enter(self, stage: str) -> None:
        """Begin a stage. Raises JobLost or WorkerStopping."""
        self.stage = stage
        self.watch()
        now = {"stage": stage, "progress_done": 0, "progress_total": None, "stage_started_at": jobs.now()}
        with self.worker.database.transaction() as session:
            self._must(jobs.change_job(session, self.fence, **now))
            jobs.add_event(session, self.fence.job_id, "stage", {"state": "running", "stage": stage})
        self.fail_point("before")

    def child(self, target: str, request: dict[str, Any]) -> dict[str, Any]:
        """Run a step of this stage in a process of its own; its progress and log lines become events.

        A process that crashes, or whose GPU stopped working, is started again. Raises JobLost, WorkerStopping, CrashLoop,
        GpuLost, or what else `run_child` raises.
        """
        call = self._call(target, request)
        return self._until_it_lives(lambda: asyncio.run(run_child(call, self.report, self.watch, self.worker.take)))

    def children(self, target: str, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run a step once for each request, all at the same time; their progress is told as one sum.

        Raises what `child` raises; then none of them is left.
        """
        told: dict[int, list[int | None]] = {}

        def report(number: int, event: dict[str, Any]) -> None:
            if "progress" in event:
                told[number] = event["progress"]
                event = {"progress": sum_progress(list(told.values()), len(requests))}
            self.report(event)

        calls = [self._call(target, request) for request in requests]
        return self._until_it_lives(lambda: asyncio.run(run_children(calls, report, self.watch, self.worker.take)))

    def _call(self, target: str, request: dict[str, Any]) -> ChildCall:
        limit = getattr(self.worker.settings.step_limits, f"{self.stage}_seconds")
        if "limits" in request:  # it decodes images
            request = request | {"pixels": self._kept_pixels()}
        return ChildCall(target, request, self.stage, limit, folder=self.folder)

    def _kept_pixels(self) -> dict[str, Any]:
        """Return where decoded pictures are kept, and how many bytes more may be."""
        folder, limit = self.worker.settings.pixels_folder, self.worker.settings.pixels_bytes
        return {"folder": str(folder), "bytes": max(0, limit - make_room(folder, limit))}

    def _until_it_lives(self, attempt: Callable[[], Answer]) -> Answer:
        last: Problem = CrashLoop(attempts=self.worker.settings.max_crashes)
        for _ in range(self.worker.settings.max_crashes):
            try:
                return attempt()
            except WorkerCrashed as problem:
                self.say(problem.detail)
            except GpuLost as problem:
                self.say(problem.detail)
                self._leave_if_gpu_is_gone()
                last = problem
        raise last

    def _leave_if_gpu_is_gone(self) -> None:
        """Look at the GPU from a fresh process; where it is gone this worker ends, and the job goes back to its queue."""
        limit = self.worker.settings.step_limits.inspect_seconds
        call = ChildCall(PROBE_STEP, {}, "probe", limit, folder=self.folder)
        try:
            is_there = "tensorrt" in asyncio.run(run_child(call, watch=self.watch))["backends"]
        except WorkerProblem as problem:
            self.say(f"the probe failed as well: {problem.detail}")
            is_there = False
        if not is_there:
            log.error("the GPU is gone, so this worker ends; a new one will find what is left", job=self.fence.job_id)
            self.worker.stopping.set()
            raise WorkerStopping

    def report(self, event: dict[str, Any]) -> None:
        """Tell one event of a child: {"progress": [done, total]} or {"log": line}."""
        if "progress" in event:
            self._tell_progress(*event["progress"])
        elif "log" in event:
            self.say(event["log"])

    def say(self, line: str) -> None:
        """Append a line to the job's log."""
        with self.worker.database.transaction() as session:
            jobs.add_event(session, self.fence.job_id, "log", {"stage": self.stage, "line": line[:4096]})

    def watch(self) -> None:
        """Raise WorkerStopping or JobLost if the work should end."""
        if self.worker.stopping.is_set():
            raise WorkerStopping
        with self.worker.database.reading() as session:
            row = jobs.get_job(session, self.fence.job_id)
            self._must(row.state == "running" and row.attempt == self.fence.attempt)

    def change(self, **values: Any) -> None:
        """Change the job's row. Raises JobLost."""
        with self.worker.database.transaction() as session:
            self._must(jobs.change_job(session, self.fence, **values))

    def keep(self, path: Path) -> str:
        """Move a file into the blobs and return its digest."""
        digest = sha256_of(path)
        self.worker.blobs.put(path, digest)
        return digest

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold the step with that key, waiting while another job works on it. Raises JobLost or WorkerStopping."""
        owner = (key, self.fence.job_id, self.fence.attempt)
        while not self._try_claim(key):
            self.watch()
            time.sleep(_CLAIM_POLL_SECONDS)
        try:
            yield
        finally:
            with self.worker.database.transaction() as session:
                workers.drop_claim(session, *owner)

    def fail_point(self, place: str) -> None:
        """Die here if the setting `failpoint` says so, once: how recovery drills end a worker at a chosen place."""
        marker = self.worker.settings.data / "failpoint-reached"
        if self.worker.settings.failpoint == f"{self.stage}:{place}" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _try_claim(self, key: str) -> bool:
        with self.worker.database.transaction() as session:
            return workers.claim_step(session, key, self.fence.job_id, self.fence.attempt)

    def _tell_progress(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != total and now - self._told_at < _PROGRESS_SECONDS:
            return
        self._told_at = now
        with self.worker.database.transaction() as session:
            self._must(jobs.change_job(session, self.fence, progress_done=done, progress_total=total))
            body = {"stage": self.stage, "done": done, "total": total}
            jobs.add_event(session, self.fence.job_id, "progress", body)

    def _must(self, mine: bool) -> None:
        if not mine:
            raise JobLost


def worker_folder(settings: Settings, worker_id: str) -> Path:
    """Return where a worker keeps the files of its running jobs; who finds it dead removes it."""
    return settings.temporary_folder / f"worker-{worker_id}"


def sum_progress(told: Sequence[Sequence[int | None]], parts: int) -> list[int | None]:
    """Return [done, total] of parts that have told theirs; the total is None until all have."""
    totals = [total for _, total in told if total is not None]
    return [sum(done or 0 for done, _ in told), sum(totals) if len(totals) == parts else None]


@contextmanager
def job_folder(worker: Worker, job_id: str) -> Iterator[Path]:
    """Give a fresh folder for one attempt's files, and remove it at the end."""
    folder = worker_folder(worker.settings, worker.id) / f"{job_id}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
