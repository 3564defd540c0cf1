"""The workflow: one durable function, whose stages find what was saved before a crash."""

import shutil
import signal
import threading
from types import FrameType

import structlog
from dbos import DBOS, DBOSConfig

from app.db.jobs import Fence
from app.db.subseconds import teach_subseconds
from app.jobs.heartbeat import Heartbeat
from app.jobs.queue import APPLICATION, APPLICATION_VERSION, WORKFLOW, JsonSerializer
from app.resolved import ResolvedJob
from app.worker.context import Run, Worker, job_folder, worker_folder
from app.worker.pipeline import finish, start

log = structlog.get_logger()

_workers: list[Worker] = []
_running: set[str] = set()
#: How long a stopping worker waits for its jobs to be given back.
_DRAIN_SECONDS = 10


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1000)  # we count crashes ourselves: a drained worker is none
def carry_out_job(job_id: str) -> None:
    """Run one attempt of a job in this process's worker."""
    worker = _workers[0]
    _running.add(job_id)  # before the look at `stopping`, for a worker that stops looks at them in the other order
    try:
        if not worker.stopping.is_set():  # else it is left as it is, and the API enqueues it again
            _attempt(worker, job_id)
    finally:
        _running.discard(job_id)


def _attempt(worker: Worker, job_id: str) -> None:
    row = start(worker, job_id)
    if row is None:
        return
    job = ResolvedJob.model_validate(row.resolved)
    job = job.model_copy(update={"tools": worker.tools_for(job.spec)})
    with job_folder(worker, job_id) as folder:
        run = Run(worker, Fence(job_id, row.attempt), job, folder)
        finish(run, crashes=row.crashes)


def serve_queues(worker: Worker, queues: list[str]) -> None:
    """Take jobs from these queues until SIGTERM or SIGINT; running jobs are then given back to their queue."""
    _workers[:] = [worker]
    teach_subseconds()
    config = DBOSConfig(
        name=APPLICATION,
        system_database_url=worker.settings.effective_jobs_url,
        executor_id=worker.id,
        application_version=APPLICATION_VERSION,
        serializer=JsonSerializer(),
        log_level="WARNING",
    )
    heartbeat = Heartbeat(worker)
    heartbeat.beat()  # before the launch, or another worker's reaper takes this one for dead
    DBOS(config=config)
    DBOS.listen_queues(queues)
    DBOS.launch()
    for name in queues:
        poll = worker.settings.poll_seconds
        DBOS.register_queue(name, worker_concurrency=1, polling_interval_sec=poll, on_conflict="always_update")
    heartbeat.queues = queues
    heartbeat.beat()
    heartbeat.start()
    log.info("worker ready", worker=worker.id, queues=queues)
    _wait_for_signal(worker.stopping)
    heartbeat.stop()
    # DBOS looks once a second. Where nothing runs there is nothing to wait for: a job that was taken from the queue at this
    # very moment belongs to a worker that is gone, and is recovered as such.
    DBOS.destroy(workflow_completion_timeout_sec=_DRAIN_SECONDS if _running else 0)
    shutil.rmtree(worker_folder(worker.settings, worker.id), ignore_errors=True)


def _wait_for_signal(stopping: threading.Event) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    stopping.wait()
