"""How batches reach the threads: freely on the mergeable grid, one whole batch after the other on TensorRT's."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from app.errors import CalibrationProblem
from app.observers.collectors import MergeableCollector, Seen, TensorrtCollector, TensorrtPart, histograms_of
from app.observers.counting import Counter
from app.observers.forward import Batch
from app.observers.lanes import Lanes, take_threads
from app.observers.parts import Parts
from app.observers.passes import Pass
from app.observers.watch import Looks, Watch
from app.quant.histogram import Histogram, MergeableHistogram, merge_mergeable

#: How much waits for each thread: about so many passes, as long as they compute no more than so many values.
_PASSES_AHEAD = 16
_VALUES_AHEAD = 1 << 22


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


class _Stretch:
    """Counts of the images between two looks: a collector a thread, taken from those that an earlier stretch is done with."""

    def __init__(self, spare: deque[MergeableCollector], parts: Parts, threads: int) -> None:
        self._collectors = [spare.popleft() if spare else MergeableCollector(parts) for _ in range(threads)]
        self._counted = [0] * threads
        self.images = 0  # that were taken, of which not all may be counted yet

    @property
    def counted(self) -> int:
        """Images that are counted by now."""
        return sum(self._counted)

    def count(self, thread: int, seen: Seen) -> None:
        """Count a part of a pass in one of the threads."""
        self._collectors[thread].count(seen)

    def count_images(self, thread: int, images: int) -> None:
        """Note that a thread has counted all of a pass of so many."""
        self._counted[thread] += images

    def histograms(self) -> list[MergeableHistogram]:
        return histograms_of(self._collectors)

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
        # Passes go to the threads one by one, so that the first begins at once and none ends long after others.
        ahead = max(1, min(_PASSES_AHEAD, _VALUES_AHEAD // prepared.pass_values))
        self._forwards, self._lanes = passes, Lanes(len(passes), ahead)
        self._tell, self._looks = watch.tell, Looks(watch, self._pass_images)
        self._spare: deque[MergeableCollector] = deque()
        self._stretch = _Stretch(self._spare, parts, self._threads)
        self._ended: deque[_Stretch] = deque()
        self._told: list[MergeableHistogram] | None = None
        self._told_images = self._taken = 0
        self._waiting: list[Batch] = []

    @property
    def images(self) -> int:
        """Images whose activations are counted by now."""
        return self._told_images + sum(stretch.counted for stretch in (*self._ended, self._stretch))

    def add(self, batch: Batch) -> None:
        """Count batch soon; see Stream."""
        self._waiting.append(batch)
        if sum(map(len, self._waiting)) >= self._pass_images:
            passes = self._take_passes()
            self._waiting = [passes.pop()] if len(passes[-1]) < self._pass_images else []
            self._put_all(passes)

    def _take_passes(self) -> list[Batch]:
        """Return all that waits by passes, of which the last may be smaller; nothing is copied where batches are passes."""
        batches, self._waiting = self._waiting, []
        if all(len(batch) == self._pass_images for batch in batches):
            return batches
        images = np.concatenate(batches) if len(batches) > 1 else batches[0]
        return [images[start : start + self._pass_images] for start in range(0, len(images), self._pass_images)]

    def _put_all(self, passes: list[Batch]) -> None:
        for images in passes:
            self._lanes.put(partial(self._count, images, self._taken, self._stretch))
            self._taken += len(images)
            self._stretch.images += len(images)
            if self._looks.take(self._taken):
                self._end_stretch()
        self._tell_ended()

    def _end_stretch(self) -> None:
        if self._ended:  # looks are close together at first, and a third stretch would need memory of its own
            self._lanes.finish()
            self._tell_ended()
        self._ended.append(self._stretch)  # told of when all of it is counted, and threads go on
        self._stretch = _Stretch(self._spare, self._parts, self._threads)

    def _tell_ended(self) -> None:
        while self._ended and self._ended[0].counted == self._ended[0].images:
            ended = self._ended.popleft()
            self._told = self._merged(ended)
            self._told_images += ended.images
            self._spare.extend(ended.end())
            self._tell(self._told_images, list(self._told))

    def _merged(self, stretch: _Stretch) -> list[MergeableHistogram]:
        counted = stretch.histograms()
        return counted if self._told is None else [merge_mergeable(*pair) for pair in zip(self._told, counted, strict=True)]

    def _count(self, images: Batch, first_image: int, stretch: _Stretch, thread: int) -> None:
        place = (first_image, len(images))
        self._forwards[thread].run(images, lambda first, regions: stretch.count(thread, Seen(first, regions, *place)))
        stretch.count_images(thread, len(images))

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        if self._waiting:
            self._put_all(self._take_passes())
        self._lanes.finish()
        self._tell_ended()
        return list[Histogram](self._merged(self._stretch))

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._lanes.close()


class TensorrtStream:
    """One batch at a time, its passes dealt to the threads; the first batch is run twice, for its ranges."""

    def __init__(self, passes: Sequence[Pass], parts: Parts, watch: Watch) -> None:
        self._pass_images = passes[0].prepared.images
        self._executor = take_threads(len(passes))
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
