"""The process of a worker, `work`. It imports nothing of the API."""

import asyncio
import os
import socket
import sys
import uuid
from contextlib import nullcontext
from typing import Any

import structlog

from app.child.parent import ChildCall, Take, no_child, run_child
from app.child.sandbox import die_with_parent
from app.child.spare import Spare
from app.db.database import Database
from app.db.migrate import migrate
from app.errors import WorkerProblem
from app.jobs.queue import prepare_queue
from app.jobs.resolve import installed_tools
from app.jobs.run import serve_queues  # registers the workflow, which only a worker may run
from app.log import configure_logging
from app.settings import Settings
from app.startup import make_folders, open_store
from app.worker.context import PROBE_STEP, WARM_UP, Worker

log = structlog.get_logger()

#: What the probe is asked about, one after the other until it lives: all, what needs no GPU, what has no library for one.
_PROBE_REQUESTS = ({}, {"backends": ["onnxruntime", "tensorrt-rtx"]}, {"backends": ["onnxruntime"]})


def work(settings: Settings) -> int:
    """Work on jobs until SIGTERM or SIGINT; return the exit code."""
    configure_logging(settings.log_level)
    make_folders(settings)
    prepare_queue(settings.effective_jobs_url)
    database = Database(settings.effective_database_url, patience_seconds=settings.dead_after_seconds)
    migrate(database)
    with Spare(WARM_UP) if settings.spare else nullcontext() as spare:
        worker, queues = _worker(settings, database, spare.take if spare else no_child)
        serve_queues(worker, choose_queues(settings, queues))
    database.close()
    return 0


def _worker(settings: Settings, database: Database, take: Take) -> tuple[Worker, list[str]]:
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    found = find_backends(settings)
    worker = Worker(name, settings, database, open_store(settings), found["backends"], installed_tools(), take=take)
    return worker, found["queues"]


def find_backends(settings: Settings) -> dict[str, Any]:
    """Return what the step probe finds here. Where a GPU's library ends that process, it is asked about fewer backends."""
    limit, folder = settings.step_limits.inspect_seconds, settings.temporary_folder
    *attempts, last = (ChildCall(PROBE_STEP, request, "probe", limit, folder=folder) for request in _PROBE_REQUESTS)
    for call in attempts:
        try:
            return asyncio.run(run_child(call, _warn))
        except WorkerProblem as problem:
            log.error("the probe failed, so this worker leaves a backend out", asked=call.request, problem=problem.detail)
    return asyncio.run(run_child(last, _warn))


def _warn(event: dict[str, Any]) -> None:
    if "log" in event:
        log.warning(event["log"])


def choose_queues(settings: Settings, found: list[str]) -> list[str]:
    """Return the queues to serve. Raises WorkerProblem for one that was asked for and cannot be served here."""
    if missing := [name for name in settings.queues if name not in found]:
        raise WorkerProblem(reason=f"this machine cannot serve {', '.join(missing)}; it can serve {', '.join(found)}")
    return list(settings.queues) or found


def main() -> None:
    """Run `python -m app.work PARENT`: the worker that `serve` starts, which dies when its server is killed."""
    die_with_parent(int(sys.argv[1]))
    sys.exit(work(Settings()))


if __name__ == "__main__":
    main()
