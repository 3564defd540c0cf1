"""A process that is started before there is a call for it, so that no step waits for imports and for cold libraries."""

import os
import sys
import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import structlog

from app.child.process import Child, discard, has_exited, start_child

log = structlog.get_logger()

_MAX_WORDS_BYTES = 1 << 16


class Spare:
    """Keeps a process that has run `warm_up`; who takes it has it alone, and the next one starts. A context manager."""

    def __init__(self, warm_up: str) -> None:
        self._warm_up = warm_up
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._is_wanted: SimpleQueue[bool] = SimpleQueue()
        # A process ends with the thread that started it, and the threads that run steps end with their jobs.
        self._thread = threading.Thread(target=self._keep, name="spare", daemon=True)

    def __enter__(self) -> Self:
        self._is_wanted.put(True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_wanted.put(False)
        self._thread.join()

    def take(self) -> Child | None:
        """Return the process, which may be warming up still; None where there is none that lives."""
        with self._lock:
            child, self._child = self._child, None
        self._is_wanted.put(True)
        if child is None or not has_exited(child):
            return child
        _tell_death(child)
        discard(child)
        return None

    def _keep(self) -> None:
        while self._is_wanted.get():
            with self._lock:  # who takes meanwhile waits for it, which is nearer than a process of its own
                self._child = self._child or _try_to_start(self._warm_up)
        with self._lock:  # a job that has not ended yet may still come for it
            last, self._child = self._child, None
        if last is not None:
            discard(last)


def _try_to_start(warm_up: str) -> Child | None:
    try:
        return start_child(sys.executable, warm_up)
    except OSError as error:  # such as too many open files: the next one who takes makes another attempt
        log.warning("no spare process could be started", error=str(error))
        return None


def _tell_death(child: Child) -> None:
    assert child.stderr is not None
    os.set_blocking(child.stderr.fileno(), False)  # what it started may hold the pipe
    words = (child.stderr.read(_MAX_WORDS_BYTES) or b"").decode(errors="replace").strip().splitlines()
    log.warning("a spare process died, so the step starts one of its own", said=words[-1:])
