"""A process that waits for one call on its stdin, and its end."""

import os
import select
import signal
import subprocess
from contextlib import suppress

from app.settings import child_environment

CHILD_MODULE = ["-m", "app.child.main"]

Child = subprocess.Popen[bytes]


def start_child(python: str, warm_up: str | None = None) -> Child:
    """Start a process that ends with the thread that called this; it runs `warm_up`, "app.room.module:function", first."""
    return subprocess.Popen(
        [python, "-P", *CHILD_MODULE, str(os.getpid()), *([warm_up] if warm_up else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        env=child_environment(), start_new_session=True,
    )  # fmt: skip


def has_exited(child: Child) -> bool:
    """Whether the process is gone, without collecting it: until then its number, and its group's, is nobody else's."""
    if child.returncode is not None:
        return True
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_group(child: Child) -> None:
    """Kill the process and what it started, such as the compiler of a kernel; once it is collected there is nothing left."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):  # not permitted: they became another user's
            os.killpg(child.pid, signal.SIGKILL)


def wait_until_warm(child: Child) -> None:
    """Wait until the process has run its warm-up, or died of it; its first event stays to be read."""
    assert child.stdout is not None
    select.select([child.stdout], [], [])


def discard(child: Child) -> None:
    """End a process that nobody will talk to."""
    end_group(child)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
