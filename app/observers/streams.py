"""How batches reach the threads: freely on the mergeable grid, one whole batch after the other on TensorRT's."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol, TypeVar

import numpy as np

from app.errors import CalibrationProblem
from app.observers.collectors import MergeableCollector, TensorrtCollector
from app.observers.forward import Activations, Arena, Batch, ForwardPass
from app.observers.regions import Regions
from app.quant.histogram import Histogram, merge_mergeable

_Share = TypeVar("_Share")
_Result = TypeVar("_Result")


class Stream(Protocol):
    """Batches in, histograms out."""

    @property
    def images(self) -> int:
        """Images whose activations are counted by now."""
        ...

    def add(self, batch: Batch) -> None:
        """Take a batch of 1 or more images; raises CalibrationNonfinite, CalibrationProblem, also for earlier ones."""
        ...

    def finish(self) -> list[Histogram]:
        """Wait for everything taken so far and return the histograms by region."""
        ...

    def close(self) -> None:
        """Wait for the threads and let them go."""
        ...


class MergeableStream:
    """Passes of the model's own size, whatever the batches' is; every thread has its counts."""

    def __init__(self, forward: ForwardPass, regions: Regions, threads: int) -> None:
        self._pass_images = forward.images
        self._executor = ThreadPoolExecutor(threads, "observe")
        self._collectors = [MergeableCollector(regions) for _ in range(threads)]
        self._idle: SimpleQueue[tuple[Arena, MergeableCollector]] = SimpleQueue()
        for collector in self._collectors:
            self._idle.put((Arena(forward), collector))
        self._running: deque[Future[int]] = deque()
        self._most_running = 2 * threads
        self._waiting: list[Batch] = []
        self._submitted = 0
        self.images = 0

    def add(self, batch: Batch) -> None:
        """Count batch soon; see Stream."""
        images = np.concatenate((*self._waiting, batch))
        whole = len(images) - len(images) % self._pass_images
        for start in range(0, whole, self._pass_images):
            self._submit(images[start : start + self._pass_images])
        self._waiting = [images[whole:]] if whole < len(images) else []

    def _submit(self, images: Batch) -> None:
        while len(self._running) >= self._most_running:
            self.images += self._running.popleft().result()
        self._running.append(self._executor.submit(self._count, images, self._submitted))
        self._submitted += len(images)

    def _count(self, images: Batch, first_image: int) -> int:
        arena, collector = self._idle.get()
        try:
            collector.count(arena.run(images), first_image)
        finally:
            self._idle.put((arena, collector))
        return len(images)

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        for images in self._waiting:
            self._submit(images)
        self._waiting = []
        while self._running:
            self.images += self._running.popleft().result()
        first, *others = (collector.histograms() for collector in self._collectors)
        for other in others:
            first = [merge_mergeable(a, b) for a, b in zip(first, other, strict=True)]
        return list(first)

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._executor.shutdown(cancel_futures=True)


class TensorrtStream:
    """One batch at a time, its passes dealt to the threads; the first batch is run twice, for its ranges."""

    def __init__(self, forward: ForwardPass, regions: Regions, threads: int) -> None:
        self._pass_images = forward.images
        self._executor = ThreadPoolExecutor(threads, "observe")
        self._collector = TensorrtCollector(regions)
        self._arenas = [Arena(forward) for _ in range(threads)]
        self.images = 0

    def add(self, batch: Batch) -> None:
        """Count batch; see Stream."""
        if not self.images:
            self._measure(batch)
        if not self._count(batch):
            self._measure(batch)
            if not self._count(batch):
                raise CalibrationProblem(reason="the model gives other values each time it runs on the same batch")
        self.images += len(batch)

    def _measure(self, batch: Batch) -> None:
        self._deal(batch, lambda _, activations, first: self._collector.measure(activations, first), self._arenas)
        self._collector.set_first_ranges()

    def _count(self, batch: Batch) -> bool:
        parts = [self._collector.start_part() for _ in self._arenas]
        if not all(self._deal(batch, self._collector.count, parts)):
            return False
        self._collector.end_batch(parts)
        return True

    def _deal(self, batch: Batch, use: Callable[[_Share, Activations, int], _Result], shares: list[_Share]) -> list[_Result]:
        idle: SimpleQueue[tuple[Arena, _Share]] = SimpleQueue()
        for pair in zip(self._arenas, shares, strict=True):
            idle.put(pair)

        def run(start: int) -> _Result:
            arena, share = idle.get()
            try:
                activations = arena.run(batch[start : start + self._pass_images])
                return use(share, activations, self.images + start)
            finally:
                idle.put((arena, share))

        return list(self._executor.map(run, range(0, len(batch), self._pass_images)))

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        return list(self._collector.histograms())

    def close(self) -> None:
        """Wait for the threads."""
        self._executor.shutdown(cancel_futures=True)
