"""Start a child for one call, pass on what it reports, and make sure that it ends."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.child.process import Child, end_group, has_exited, start_child
from app.errors import BuildTimeout, Problem, StepTimeout, WorkerCrashed, WorkerOom, WorkerProblem, problem_from_json

#: One line of a child: a result of a large model's inspection is the longest.
_MAX_LINE_BYTES = 64 << 20
_MAX_STDERR_BYTES = 64 << 10
_WATCH_SECONDS = 0.5
_EXIT_SECONDS = 0.005

Report = Callable[[dict[str, Any]], None]
Watch = Callable[[], None]
#: Gives a process that was started before there was a call, if there is one.
Take = Callable[[], Child | None]


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


def no_child() -> None:
    """Give no process, so that one is started for the call."""


async def run_child(call: ChildCall, report: Report = ignore, watch: Watch = ignore, take: Take = no_child) -> dict[str, Any]:
    """Run the call in a process of its own and return what its function returned.

    `report` gets each event, `watch` is called twice a second: whatever they raise ends the child, as cancelling this
    coroutine does. Raises the Problem that the function raised, StepTimeout (of a build: BuildTimeout), WorkerOom,
    WorkerCrashed for a child that a signal ended, or WorkerProblem for another that gave no answer.
    """
    child = (call.python == sys.executable and take()) or start_child(call.python)
    try:
        async with asyncio.timeout(call.timeout_seconds), _Pipes(child) as pipes:
            return await _converse(pipes, call, report, watch)
    except TimeoutError as error:
        kind = BuildTimeout if call.stage == "build" else StepTimeout
        raise kind(stage=call.stage, seconds=int(call.timeout_seconds)) from error
    finally:
        end_group(child)
        await asyncio.shield(_exit_code(child))


async def run_children(
    calls: Sequence[ChildCall], report: Callable[[int, dict[str, Any]], None], watch: Watch, take: Take = no_child
) -> list[dict[str, Any]]:
    """Run all calls at once, each as `run_child` does, and return what they returned, in their order.

    `report` gets the number of the call with each event. The first call that fails ends the others; raises its problem.
    """
    tasks = [asyncio.ensure_future(run_child(call, partial(report, number), watch, take)) for number, call in enumerate(calls)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Kept(asyncio.Protocol):
    """Keeps the last bytes of what a child says on stderr, until it ends."""

    def __init__(self) -> None:
        self.words = bytearray()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.words += data
        del self.words[:-_MAX_STDERR_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class _Pipes:
    """A child's pipes in this event loop; a context manager."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.events = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
        self.complaints = _Kept()
        self._open: list[asyncio.BaseTransport] = []

    async def __aenter__(self) -> Self:
        loop, child = asyncio.get_running_loop(), self.child
        assert child.stdout is not None
        assert child.stderr is not None
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.events), child.stdout)
        listening, _ = await loop.connect_read_pipe(lambda: self.complaints, child.stderr)
        self._open += [reading, listening]
        return self

    async def send(self, call: ChildCall) -> None:
        """Begin to tell the child what it shall do. If it died early its exit says why."""
        assert self.child.stdin is not None
        words = {"target": call.target, "request": call.request, "memory_bytes": call.memory_bytes}
        writing, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, self.child.stdin)
        self._open.append(writing)
        writing.write(json.dumps(words | {"folder": str(call.folder)}).encode())
        writing.close()  # once all is written

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for transport in self._open:
            if isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size():
                transport.abort()  # what the child did not read it never will
            transport.close()


async def _converse(pipes: _Pipes, call: ChildCall, report: Report, watch: Watch) -> dict[str, Any]:
    await pipes.send(call)
    async for event in _events(pipes, watch):
        if "result" in event:
            return event["result"]
        if "problem" in event:
            raise problem_from_json(event["problem"])
        if "warm" not in event:
            report(event)
    while not has_exited(pipes.child):
        await asyncio.sleep(_EXIT_SECONDS)
    end_group(pipes.child)
    code = await _exit_code(pipes.child)
    with suppress(TimeoutError):
        await asyncio.wait_for(pipes.complaints.ended.wait(), _WATCH_SECONDS)
    raise _death(code, pipes.complaints.words.decode(errors="replace"))


async def _events(pipes: _Pipes, watch: Watch) -> AsyncIterator[dict[str, Any]]:
    # What the child started may hold the pipe when it is gone; so its exit is looked for, and then the rest is read.
    watched_at = time.monotonic()
    while True:
        reading = asyncio.ensure_future(pipes.events.readline())
        is_read = is_gone = False
        while not is_read and not is_gone:
            if is_gone := has_exited(pipes.child):
                end_group(pipes.child)
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


async def _exit_code(child: Child) -> int:
    while (code := child.poll()) is None:
        await asyncio.sleep(_EXIT_SECONDS)
    return code


def _death(code: int, complaints: str) -> Problem:
    if code == -signal.SIGKILL or "MemoryError" in complaints or "bad_alloc" in complaints:
        return WorkerOom()
    if code < 0:
        return WorkerCrashed(reason=f"it was ended by {signal.Signals(-code).name}")
    last = complaints.strip().splitlines()[-1:] or ["it said nothing"]
    return WorkerProblem(reason=f"it ended with code {code}: {last[0]}")
