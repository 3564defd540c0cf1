"""Time and memory of one process."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """Return the most memory that this process had resident (Linux)."""
    # getrusage's ru_maxrss survives exec and so tells of the parent, too; VmHWM begins with the program.
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


class Meter:
    """Seconds from its making to `started`, and from there to `ended`."""

    def __init__(self) -> None:
        self._began = self._started = time.perf_counter()

    def started(self) -> None:
        """What goes before the first image is done."""
        self._started = time.perf_counter()

    def ended(self) -> dict[str, Any]:
        """Return {"start_seconds", "seconds", "peak_bytes"}."""
        seconds = time.perf_counter() - self._started
        return {"start_seconds": self._started - self._began, "seconds": seconds, "peak_bytes": peak_bytes()}


def milliseconds(work: Callable[[], Any]) -> float:
    """Return how long work takes."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)
