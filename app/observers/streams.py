"""How batches reach the threads: freely on the mergeable grid, one whole batch after the other on TensorRT's."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, reduce
from queue import SimpleQueue
from threading import Barrier
from typing import Protocol

import numpy as np

from app.errors import CalibrationProblem
from app.observers.collectors import MergeableCollector, Seen, TensorrtCollector, TensorrtPart
from app.observers.counting import Counter
from app.observers.forward import Batch
from app.observers.parts import Parts
from app.observers.passes import Pass
from app.observers.watch import Looks, Watch
from app.quant.histogram import Histogram, MergeableHistogram, merge_mergeable

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


def _start_threads(count: int) -> ThreadPoolExecutor:
    # Now, while nothing runs: a thread that starts beside a pass first waits for the GIL.
    executor, together = ThreadPoolExecutor(count, "observe"), Barrier(count, timeout=1)
    for _ in range(count):
        executor.submit(together.wait)
    return executor


class _Stretch:
    """Counts of the images between two looks: a collector a thread, taken from those that an earlier stretch is done with."""

    def __init__(self, spare: deque[MergeableCollector], parts: Parts, threads: int) -> None:
        self._regions = len(parts)
        self._collectors = [spare.popleft() if spare else MergeableCollector(parts) for _ in range(threads)]
        self.idle: SimpleQueue[MergeableCollector] = SimpleQueue()
        for collector in self._collectors:
            self.idle.put(collector)

    def histograms(self) -> list[MergeableHistogram]:
        return [self._merged(region) for region in range(self._regions)]

    def _merged(self, region: int) -> MergeableHistogram:
        return reduce(merge_mergeable, (collector.histogram(region) for collector in self._collectors))

    def end(self) -> list[MergeableCollector]:
        """Forget what was counted and return the collectors: their memory is mapped."""
        for collector in self._collectors:
            collector.clear()
        return self._collectors


class MergeableStream:
    """Passes of the model's own size, whatever the batches' is; every thread has its counts."""

    def __init__(self, passes: Sequence[Pass], parts: Parts, watch: Watch) -> None:
        self._parts, self._threads = parts, len(passes)
        prepared = passes[0].prepared
        self._pass_images = prepared.images
        # A thread takes several passes at a time where they are short.
        self._portion = max(1, min(_PORTION_PASSES, _PORTION_VALUES // prepared.pass_values))
        self._executor = _start_threads(self._threads)
        self._idle: SimpleQueue[Pass] = SimpleQueue()
        for lane in passes:
            self._idle.put(lane)
        self._tell, self._looks, self._total = watch.tell, Looks(watch, self._pass_images), watch.total_images
        self._spare: deque[MergeableCollector] = deque()
        self._stretch = _Stretch(self._spare, parts, self._threads)
        self._done: list[MergeableHistogram] | None = None
        self._running: deque[Future[int] | _Stretch] = deque()
        self._most_running = 2 * self._threads
        self._waiting: list[Batch] = []
        self._submitted = 0
        self.images = 0

    def add(self, batch: Batch) -> None:
        """Count batch soon; see Stream."""
        self._waiting.append(batch)
        portion = self._next_portion()
        if sum(map(len, self._waiting)) >= portion * self._pass_images:
            passes = self._take_passes()
            self._waiting = [passes.pop()] if len(passes[-1]) < self._pass_images else []
            self._submit_all(passes, portion)

    def _next_portion(self) -> int:
        # Small ones first, so that no thread waits for images to be decoded, and last, so that none ends long after others.
        shares = [self._submitted // 4]
        if self._total is not None:
            shares.append((self._total - self._submitted) // (4 * self._threads))
        return max(1, min(self._portion, min(shares) // self._pass_images))

    def _take_passes(self) -> list[Batch]:
        """Return all that waits by passes, of which the last may be smaller; nothing is copied where batches are passes."""
        batches, self._waiting = self._waiting, []
        if all(len(batch) == self._pass_images for batch in batches):
            return batches
        images = np.concatenate(batches) if len(batches) > 1 else batches[0]
        return [images[start : start + self._pass_images] for start in range(0, len(images), self._pass_images)]

    def _submit_all(self, passes: list[Batch], portion: int) -> None:
        while passes:
            left = self._looks.images_left(self._submitted)
            taken = portion if left is None else min(portion, left // self._pass_images)
            self._submit(passes[:taken])
            passes = passes[taken:]

    def _submit(self, passes: list[Batch]) -> None:
        while len(self._running) >= self._most_running:
            self._take()
        self._running.append(self._executor.submit(self._count, passes, self._submitted, self._stretch.idle))
        self._submitted += sum(map(len, passes))
        if self._looks.take(self._submitted):
            self._running.append(self._stretch)  # reached when all before it are counted, and threads go on
            self._stretch = _Stretch(self._spare, self._parts, self._threads)

    def _take(self) -> None:
        first = self._running.popleft()
        if isinstance(first, Future):
            self.images += first.result()
            return
        self._done = self._merged(first)
        self._spare.extend(first.end())
        self._tell(self.images, list(self._done))

    def _merged(self, stretch: _Stretch) -> list[MergeableHistogram]:
        counted = stretch.histograms()
        return counted if self._done is None else [merge_mergeable(*pair) for pair in zip(self._done, counted, strict=True)]

    def _count(self, passes: list[Batch], first_image: int, collectors: SimpleQueue[MergeableCollector]) -> int:
        forward, collector = self._idle.get(), collectors.get()
        images = 0
        try:
            for taken in passes:
                place = (first_image + images, len(taken))
                forward.run(taken, lambda first, regions, place=place: collector.count(Seen(first, regions, *place)))
                images += len(taken)
        finally:
            collectors.put(collector)
            self._idle.put(forward)
        return images

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        if self._waiting:
            passes = self._take_passes()
            self._submit_all(passes, -(-len(passes) // self._threads))
        while self._running:
            self._take()
        return list[Histogram](self._merged(self._stretch))

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._executor.shutdown(cancel_futures=True)


class TensorrtStream:
    """One batch at a time, its passes dealt to the threads; the first batch is run twice, for its ranges."""

    def __init__(self, passes: Sequence[Pass], parts: Parts, watch: Watch) -> None:
        self._pass_images = passes[0].prepared.images
        self._executor = _start_threads(len(passes))
        self._collector = TensorrtCollector(parts)
        self._lanes = [(forward, Counter()) for forward in passes]
        self._tell, self._looks = watch.tell, Looks(watch)
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
        if self._looks.take(self.images):
            self._tell(self.images, self.finish())

    def _measure(self, batch: Batch) -> None:
        self._deal(batch, [self._collector.measure] * len(self._lanes))
        self._collector.set_ranges()

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
