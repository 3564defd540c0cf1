"""A server of one's own, for as long as a block runs: a process that ends with it, whatever happens."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.client.client import Client
from app.client.problems import ClientProblem, ServerProblem, Unreachable

_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
#: `serve` gives its worker 20 seconds and open requests 5.
_STOP_SECONDS = 30.0
_SHOWN_LINES = 20
_ADDRESS = re.compile(r"serves on (http://\S+)")


@contextmanager
def running_server(data: Path) -> Iterator[str]:
    """Run a server on a free loopback port and yield its address; `data/server.log` keeps what it says.

    Raises ClientProblem with the end of the log if it is not ready within 60 seconds.
    """
    from app.settings import child_environment  # the settings of this machine's other server are not ours

    data.mkdir(parents=True, exist_ok=True)
    log = data / "server.log"
    # -P: a folder called `app` where the user stands is not ours
    command = [sys.executable, "-P", "-m", "app.client.embedded", str(data.absolute())]
    with log.open("wb") as output:
        # a session of its own: Ctrl-C comes to us alone, and we stop the server in order
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=child_environment(), start_new_session=True
        )
    try:
        yield _await_ready(process, log)
    finally:
        _stop(process)


def _await_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise _start_problem(f"The server ended with code {process.returncode} while it started", log)
        address = _ADDRESS.search(log.read_text("utf-8", "replace"))
        if address and _is_ready(address[1]):
            return address[1]
        time.sleep(_POLL_SECONDS)
    raise _start_problem(f"The server was not ready within {_START_SECONDS:.0f} seconds", log)


def _is_ready(address: str) -> bool:
    try:
        with Client(address) as client:
            client.ready()
    except (Unreachable, ServerProblem):
        return False
    return True


def _start_problem(what: str, log: Path) -> ClientProblem:
    lines = log.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
    return ClientProblem(f"{what}. Its log {log} ends:\n" + "\n".join(lines))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(data: str) -> int:
    threading.Thread(target=_end_with_starter, daemon=True).start()
    from app.main import serve
    from app.settings import Settings

    return serve(Settings(data=Path(data), host="127.0.0.1", port=0))


def _end_with_starter() -> None:
    # stdin ends when the starter closes it, and when it is killed too
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1]))
