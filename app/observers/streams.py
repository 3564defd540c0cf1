"""How batches reach the threads: freely on the mergeable grid, one whole batch after the other on TensorRT's."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from app.errors import CalibrationProblem
from app.observers.collectors import MergeableCollector, Seen, TensorrtCollector, TensorrtPart
from app.observers.counting import Counter
from app.observers.forward import Batch, Forward
from app.observers.parts import Parts
from app.observers.passes import Pass
from app.quant.histogram import Histogram, merge_mergeable

#: How much a thread takes at a time: so many passes, as long as they compute no more than so many values.
_PORTION_PASSES = 16
_PORTION_VALUES = 1 << 22


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

    def __init__(self, forward: Forward, parts: Parts, threads: int) -> None:
        self._pass_images = forward.prepared.images
        # A thread takes several passes at a time where they are short.
        self._portion_images = self._pass_images * max(1, min(_PORTION_PASSES, _PORTION_VALUES // forward.prepared.pass_values))
        self._executor = ThreadPoolExecutor(threads, "observe")
        self._collectors = [MergeableCollector(parts) for _ in range(threads)]
        self._idle: SimpleQueue[tuple[Pass, MergeableCollector]] = SimpleQueue()
        for collector in self._collectors:
            self._idle.put((Pass(forward, parts), collector))
        self._running: deque[Future[int]] = deque()
        self._most_running = 2 * threads
        self._waiting: list[Batch] = []
        self._submitted = 0
        self.images = 0

    def add(self, batch: Batch) -> None:
        """Count batch soon; see Stream."""
        self._waiting.append(batch)
        if sum(map(len, self._waiting)) < self._portion_images:
            return
        images = np.concatenate(self._waiting) if len(self._waiting) > 1 else batch
        whole = len(images) - len(images) % self._pass_images
        for start in range(0, whole, self._portion_images):
            self._submit(images[start : min(start + self._portion_images, whole)])
        self._waiting = [images[whole:]] if whole < len(images) else []

    def _submit(self, images: Batch) -> None:
        while len(self._running) >= self._most_running:
            self.images += self._running.popleft().result()
        self._running.append(self._executor.submit(self._count, images, self._submitted))
        self._submitted += len(images)

    def _count(self, images: Batch, first_image: int) -> int:
        forward, collector = self._idle.get()
        try:
            for start in range(0, len(images), self._pass_images):
                taken = images[start : start + self._pass_images]
                place = (first_image + start, len(taken))
                forward.run(taken, lambda first, regions, place=place: collector.count(Seen(first, regions, *place)))
        finally:
            self._idle.put((forward, collector))
        return len(images)

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        if self._waiting:
            self._submit(np.concatenate(self._waiting))
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

    def __init__(self, forward: Forward, parts: Parts, threads: int) -> None:
        self._pass_images = forward.prepared.images
        self._executor = ThreadPoolExecutor(threads, "observe")
        self._collector = TensorrtCollector(parts)
        self._lanes = [(Pass(forward, parts), Counter()) for _ in range(threads)]
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
        self._deal(batch, [self._collector.measure] * len(self._lanes))
        self._collector.set_first_ranges()

    def _count(self, batch: Batch) -> bool:
        shares = [self._collector.start_part() for _ in self._lanes]
        counted = self._deal(batch, [partial(_count_part, self._collector, part) for part in shares])
        if False in counted:
            return False
        self._collector.end_batch(shares)
        return True

    def _deal(self, batch: Batch, uses: Sequence[Callable[[Counter, Seen], bool | None]]) -> list[bool | None]:
        """Run the passes of batch in the threads, each with a use of its own; return what the uses returned."""
        idle: SimpleQueue[tuple[Pass, Counter, Callable[[Counter, Seen], bool | None]]] = SimpleQueue()
        for (forward, counter), use in zip(self._lanes, uses, strict=True):
            idle.put((forward, counter, use))
        answers: list[bool | None] = []

        def run(start: int) -> None:
            forward, counter, use = lane = idle.get()
            taken = batch[start : start + self._pass_images]
            place = (self.images + start, len(taken))
            try:
                forward.run(taken, lambda first, regions: answers.append(use(counter, Seen(first, regions, *place))))
            finally:
                idle.put(lane)

        list(self._executor.map(run, range(0, len(batch), self._pass_images)))
        return answers

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        return list(self._collector.histograms())

    def close(self) -> None:
        """Wait for the threads."""
        self._executor.shutdown(cancel_futures=True)


def _count_part(collector: TensorrtCollector, part: TensorrtPart, counter: Counter, seen: Seen) -> bool:
    return collector.count(counter, part, seen)
