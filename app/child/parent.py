"""Start a child for one call, pass on what it reports, and make sure that it ends."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from app.child.group import end_group
from app.errors import BuildTimeout, Problem, StepTimeout, WorkerCrashed, WorkerOom, WorkerProblem, problem_from_json
from app.settings import child_environment

#: One line of a child: a result of a large model's inspection is the longest.
_MAX_LINE_BYTES = 64 << 20
_MAX_STDERR_BYTES = 64 << 10
_WATCH_SECONDS = 0.5
_EXIT_SECONDS = 0.005
CHILD_MODULE = ["-m", "app.child.main"]

Report = Callable[[dict[str, Any]], None]
Watch = Callable[[], None]


@dataclass(frozen=True)
class ChildCall:
    """What a child shall do: `target` is "app.room.module:function", called with `request`."""

    target: str
    request: dict[str, Any]
    stage: str
    timeout_seconds: float
    #: Address space in bytes; None where a runtime reserves more than it uses.
    memory_bytes: int | None = None
    folder: Path = field(default_factory=Path.cwd)
    #: Another interpreter may have other packages; of ours it needs nothing that the target does not.
    python: str = sys.executable


def ignore(*_event: Any) -> None:
    """Take a report, or a look around, and do nothing."""


async def run_child(call: ChildCall, report: Report = ignore, watch: Watch = ignore) -> dict[str, Any]:
    """Run the call in a process of its own and return what its function returned.

    `report` gets each event, `watch` is called twice a second: whatever they raise ends the child, as cancelling this
    coroutine does. Raises the Problem that the function raised, StepTimeout (of a build: BuildTimeout), WorkerOom,
    WorkerCrashed for a child that a signal ended, or WorkerProblem for another that gave no answer.
    """
    process = await asyncio.create_subprocess_exec(
        call.python, "-P", *CHILD_MODULE, str(os.getpid()),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=child_environment(), cwd=call.folder, start_new_session=True, limit=_MAX_LINE_BYTES,
    )  # fmt: skip
    try:
        async with asyncio.timeout(call.timeout_seconds):
            return await _converse(process, call, report, watch)
    except TimeoutError as error:
        kind = BuildTimeout if call.stage == "build" else StepTimeout
        raise kind(stage=call.stage, seconds=int(call.timeout_seconds)) from error
    finally:
        end_group(process.pid, process.returncode)
        await asyncio.shield(_exit_code(process))
        _close(process)


async def run_children(
    calls: Sequence[ChildCall], report: Callable[[int, dict[str, Any]], None], watch: Watch
) -> list[dict[str, Any]]:
    """Run all calls at once, each in a process of its own, and return what they returned, in their order.

    `report` gets the number of the call with each event. The first call that fails ends the others; raises its problem.
    """
    tasks = [asyncio.ensure_future(run_child(call, partial(report, number), watch)) for number, call in enumerate(calls)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(process: Process, call: ChildCall, report: Report, watch: Watch) -> dict[str, Any]:
    assert process.stdin is not None
    complaints = bytearray()
    listening = asyncio.create_task(_listen(process, complaints))
    try:
        await _send(process.stdin, call)
        async for event in _events(process, watch):
            if "result" in event:
                return event["result"]
            if "problem" in event:
                raise problem_from_json(event["problem"])
            report(event)
        code = await _exit_code(process)
        end_group(process.pid, code)
        await asyncio.wait({listening}, timeout=_WATCH_SECONDS)
        raise _death(code, complaints.decode(errors="replace"))
    finally:
        listening.cancel()


async def _events(process: Process, watch: Watch) -> AsyncIterator[dict[str, Any]]:
    # What the child started may hold the pipe when it is gone; so its exit is looked for, and then the rest is read.
    assert process.stdout is not None
    watched_at = time.monotonic()
    while True:
        reading = asyncio.ensure_future(process.stdout.readline())
        is_read = is_gone = False
        while not is_read and not is_gone:
            if is_gone := process.returncode is not None:
                end_group(process.pid, process.returncode)
            is_read = bool((await asyncio.wait({reading}, timeout=_WATCH_SECONDS))[0])
            if time.monotonic() - watched_at >= _WATCH_SECONDS:  # by the clock: a busy child is watched as well
                watched_at = time.monotonic()
                watch()
        if not is_read:
            reading.cancel()
            return
        if not (line := reading.result()).endswith(b"\n"):  # the end, or half a line that a signal cut off
            return
        yield json.loads(line)


async def _send(stdin: asyncio.StreamWriter, call: ChildCall) -> None:
    words = {"target": call.target, "request": call.request, "memory_bytes": call.memory_bytes}
    try:
        stdin.write(json.dumps(words).encode())
        await stdin.drain()
        stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it died early; its exit says why


async def _listen(process: Process, kept: bytearray) -> None:
    assert process.stderr is not None
    while chunk := await process.stderr.read(1 << 16):
        kept += chunk
        del kept[:-_MAX_STDERR_BYTES]


async def _exit_code(process: Process) -> int:
    # `process.wait()` of Python 3.11 waits for the end of the pipes as well, which what the child started may hold.
    while process.returncode is None:
        await asyncio.sleep(_EXIT_SECONDS)
    return process.returncode


def _death(code: int, complaints: str) -> Problem:
    if code == -signal.SIGKILL or "MemoryError" in complaints or "bad_alloc" in complaints:
        return WorkerOom()
    if code < 0:
        return WorkerCrashed(reason=f"it was ended by {signal.Signals(-code).name}")
    last = complaints.strip().splitlines()[-1:] or ["it said nothing"]
    return WorkerProblem(reason=f"it ended with code {code}: {last[0]}")


def _close(process: Process) -> None:
    # asyncio closes a subprocess's pipes when it is collected, which may be after the loop is gone.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
