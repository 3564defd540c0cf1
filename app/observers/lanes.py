"""Threads that take tasks in the order in which they come; whoever puts them is held up when far ahead."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from threading import Barrier

#: Called in one of the threads, with its number.
Task = Callable[[int], None]


#: Threads that wait to be taken, by their number.
_waiting: dict[int, ThreadPoolExecutor] = {}


def keep_threads(count: int) -> None:
    """Start threads for the next who asks for so many. glibc reserves about 100 MB of address space for each."""
    _waiting[count] = _start(count)


def take_threads(count: int) -> ThreadPoolExecutor:
    """Return threads that have started, while nothing runs: one that starts beside a pass first waits for the GIL."""
    return _waiting.pop(count, None) or _start(count)


def _start(count: int) -> ThreadPoolExecutor:
    executor, together = ThreadPoolExecutor(count, "observe"), Barrier(count, timeout=1)
    cores = sorted(os.sched_getaffinity(0))

    def begin(number: int) -> None:
        # Woken together they may share a core, and it takes the system 4 ms to find the other one idle.
        if len(cores) == count:
            with suppress(OSError):
                os.sched_setaffinity(0, {cores[number]})
        together.wait()

    for number in range(count):
        executor.submit(begin, number)
    return executor


class Lanes:
    """So many threads. About `portion` tasks may wait for each, and whoever puts them waits for room for so many.

    Told of every task that was taken, it would wake each time, beside threads that have all the cores.
    """

    def __init__(self, threads: int, portion: int) -> None:
        self._threads, self._portion = threads, portion
        self._executor = take_threads(threads)
        self._running: list[Future[None]] = []
        self._taken = [0] * threads

    def _begin(self) -> None:
        self._tasks: SimpleQueue[tuple[int, Task] | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._threads):
            self._room.put(None)
        self._number, self._taken, self._is_ending = 0, [0] * self._threads, False
        self._running = [self._executor.submit(self._run, lane) for lane in range(self._threads)]

    def _run(self, lane: int) -> None:
        try:
            # What is taken is always done: so the first task that fails is the first one of all.
            while not self._is_ending and (taken := self._tasks.get()) is not None:
                self._taken[lane], task = taken
                if self._taken[lane] % self._portion == 0:
                    self._room.put(None)
                task(lane)
        finally:
            self._is_ending = True
            self._room.put(None)

    def put(self, task: Task) -> None:
        """Have a task done soon; raises what an earlier one raised, the first of those that failed."""
        if not self._running:
            self._begin()
        if self._number % self._portion == 0:
            self._room.get()
        if self._is_ending:
            self.finish()
        self._tasks.put((self._number, task))
        self._number += 1

    def finish(self) -> None:
        """Wait until all is done; more may be put then. Raises as put does."""
        self._end()
        wait(self._running)
        running, self._running = self._running, []
        for lane in sorted(range(len(running)), key=self._taken.__getitem__):
            running[lane].result()

    def _end(self) -> None:
        for _ in self._running:
            self._tasks.put(None)

    def close(self) -> None:
        """Drop what has not begun, wait for the rest and let the threads go."""
        self._is_ending = True
        self._end()
        # Threads with nothing to do end beside what comes next.
        self._executor.shutdown(wait=bool(self._running))
        self._running = []
