"""The process of the API, `serve`, by default with a worker of its own."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import structlog
import uvicorn

from app.api.app import create_app
from app.db.database import Database
from app.db.migrate import migrate
from app.jobs.context import Service
from app.jobs.queue import JobQueue, prepare_queue
from app.log import configure_logging
from app.settings import Settings
from app.startup import make_folders, open_store

log = structlog.get_logger()

_SHUTDOWN_SECONDS = 5
_WORKER_STOP_SECONDS = 20
#: A worker that dies at once is started again after a pause that doubles up to this.
_MAX_RESTART_PAUSE_SECONDS = 30.0
_USAGE = 2

_TOKENS_NEEDED = """enginesmith: refusing to listen on {host} without a token: anybody on the network could use this server.
Set one or more tokens, at least 16 characters each, and start again:
    export ENGINESMITH_TOKENS=$(openssl rand -hex 32)
Clients then send it: export ENGINESMITH_TOKEN=..., or curl -H "Authorization: Bearer ..."."""


def serve(settings: Settings) -> int:
    """Serve the API until SIGTERM or SIGINT; return the exit code. Raises OSError for a port or data folder in use."""
    configure_logging(settings.log_level)
    if not settings.is_loopback and not settings.tokens:
        print(_TOKENS_NEEDED.format(host=settings.host), file=sys.stderr)
        return _USAGE
    listener = _listen(settings)
    lock = _lock(settings)
    make_folders(settings)
    _sweep_temporary(settings)
    prepare_queue(settings.effective_jobs_url)
    database = Database(settings.effective_database_url)
    migrate(database)
    service = Service(settings, database, open_store(settings), JobQueue(settings.effective_jobs_url))
    print(f"Enginesmith serves on http://{_address(listener)}", file=sys.stderr, flush=True)
    # uvicorn shuts down in order at these signals and then raises them again; the worker must be stopped first.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with _own_worker(settings):
        _run_uvicorn(service, listener)
    service.queue.close()
    database.close()
    lock.close()
    return 0


def _lock(settings: Settings) -> TextIO:
    """Hold the data folder for this server alone. Raises OSError where another server has it."""
    settings.data.mkdir(parents=True, exist_ok=True)
    path = settings.data / "serve.lock"
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another server uses this data folder", str(settings.data)) from error
    return lock


def _sweep_temporary(settings: Settings) -> None:
    """Remove what uploads left behind when an earlier run was killed; job files are their worker's matter."""
    for folder in settings.temporary_folder.glob("upload-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _run_uvicorn(service: Service, listener: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(service), log_config=None, access_log=False, timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        timeout_keep_alive=15, server_header=False, h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _own_worker(settings: Settings) -> Iterator[None]:
    if not settings.worker:
        yield
        return
    supervisor = Supervisor(settings)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()


class Supervisor(threading.Thread):
    """Keeps one worker process running until `stop()`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._settings = settings
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        pause = 0.5
        while not self._stopping.is_set():
            began = time.monotonic()
            self._process = self._start()
            code = self._process.wait()
            if self._stopping.is_set():
                return
            pause = (
                0.5 if time.monotonic() - began > 2 * _MAX_RESTART_PAUSE_SECONDS else min(2 * pause, _MAX_RESTART_PAUSE_SECONDS)
            )
            log.error("the worker ended and is started again", code=code, pause_seconds=pause)
            self._stopping.wait(pause)

    def stop(self) -> None:
        """Ask the worker to stop, then make it."""
        self._stopping.set()
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_WORKER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches the server alone, which then stops the worker in order.
        command = [sys.executable, "-P", "-m", "app.work", str(os.getpid())]
        return subprocess.Popen(command, env=self._settings.worker_environment(), start_new_session=True)
