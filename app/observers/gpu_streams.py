"""How batches reach the GPU: gathered into passes of the engine's own size, two slots taking turns."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from app.observers.batch_axis import raise_mixed, take_images
from app.observers.forward import Batch
from app.observers.gpu_counters import Measures, MergeableCounters, TensorrtCounters
from app.observers.gpu_regions import Device, Fetched, Work, item_table, region_table
from app.observers.regions import Regions
from app.observers.watch import Looks, Watch
from app.quant.histogram import Histogram


class Forward(Protocol):
    """Passes of the model on the GPU. A slot is filled, run, counted, then released: free again when all that is done."""

    @property
    def slots(self) -> Sequence[Fetched]:
        """Where the tensors of a pass are, by slot."""
        ...

    def fill(self, slot: int, first: int, images: Batch) -> None:
        """Copy images into a slot, from its place `first` on, when what it held before is done with."""
        ...

    def run(self, slot: int, images: int) -> None:
        """Enqueue the upload and the pass of a slot that holds that many images."""
        ...

    def read(self, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the first values of a fetched tensor, by its number, as the last pass left it."""
        ...

    def write(self, tensor: int, values: np.ndarray) -> None:
        """Put values to the start of a fetched tensor."""
        ...

    def release(self, slot: int) -> None:
        """Note that everything which works on the slot is enqueued."""
        ...


class PassTables:
    """The tables of the kernels for every slot; those of a pass with fewer images are made when it comes."""

    def __init__(self, device: Device, regions: Regions, slots: Sequence[Fetched]) -> None:
        self._device, self._regions, self._slots = device, regions, slots
        tables = [region_table(regions, fetched, fetched.images) for fetched in slots]
        items = item_table(tables[0])
        self._items = self._store(items)
        self._full_tables = [self._store(table) for table in tables]
        stored = zip(self._full_tables, tables, strict=True)
        self._full = [self._work(buffer, table, len(items)) for buffer, table in stored]
        self._partial = device.allocate(tables[0].nbytes)

    def work(self, slot: int, images: int) -> Work:
        """Return a launch over the first images of a slot."""
        fetched, full = self._slots[slot], self._full[slot]
        if images == fetched.images:
            return full
        table = region_table(self._regions, fetched, images)
        self._device.upload(self._partial, table)
        return self._work(self._partial, table, full.blocks)

    def _store(self, table: np.ndarray) -> Any:
        buffer = self._device.allocate(table.nbytes)
        self._device.upload(buffer, table)
        return buffer

    def _work(self, regions: Any, table: np.ndarray, blocks: int) -> Work:
        return Work(regions.pointer, self._items.pointer, blocks, table["size"].astype(np.int64))

    def free(self) -> None:
        """Give the GPU's memory back."""
        self._device.free((self._items, self._partial, *self._full_tables))


class _Passes:
    def __init__(self, forward: Forward, tables: PassTables, measures: Measures) -> None:
        self._forward, self._tables, self._measures = forward, tables, measures
        self.images_a_pass = forward.slots[0].images
        self.slot = 0

    def run(self, images: int, first_image: int, use: Callable[[Work, int], None]) -> None:
        """Run the filled slot and use its tensors; the other slot is next."""
        self._measures.check()
        fetched = self._forward.slots[self.slot]
        if images < fetched.images and fetched.placed.mixed:
            raise_mixed(fetched.placed.mixed[0], fetched.images)
        self._forward.run(self.slot, images)
        if images < fetched.images:
            self._cut(fetched, images)
        use(self._tables.work(self.slot, images), first_image)
        self._forward.release(self.slot)
        self.slot = (self.slot + 1) % len(self._forward.slots)

    def _cut(self, fetched: Fetched, images: int) -> None:
        # Counted is from the start of a tensor on: its first images must lie there, along whatever axis.
        for tensor, axis in enumerate(fetched.batch_axes[:-1]):
            if axis:
                values = self._forward.read(tensor, fetched.shapes[tensor])
                self._forward.write(tensor, take_images(values, axis, images, fetched.images))

    def free(self) -> None:
        self._tables.free()

    def fill(self, first: int, images: Batch) -> None:
        self._forward.fill(self.slot, first, images)


class MergeableGpuStream:
    """Passes of the engine's size, whatever the batches' is. See `app.observers.streams.Stream`."""

    def __init__(self, forward: Forward, regions: Regions, device: Device, watch: Watch) -> None:
        self._counters = MergeableCounters(device, regions)
        self._passes = _Passes(forward, PassTables(device, regions, forward.slots), self._counters.measures)
        self._tell, self._looks = watch.tell, Looks(watch, self._passes.images_a_pass)
        self._waiting = 0
        self.images = 0

    def add(self, batch: Batch) -> None:
        """Count batch soon; see Stream."""
        while len(batch):
            taken = batch[: self._passes.images_a_pass - self._waiting]
            self._passes.fill(self._waiting, taken)
            self._waiting += len(taken)
            batch = batch[len(taken) :]
            if self._waiting == self._passes.images_a_pass:
                self._run()
                if self._looks.take(self.images):
                    self._tell(self.images, self.finish())

    def _run(self) -> None:
        self._passes.run(self._waiting, self.images, self._counters.count)
        self.images += self._waiting
        self._waiting = 0

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        if self._waiting:
            self._run()
        self._counters.measures.raise_nonfinite()
        return list(self._counters.histograms())

    def close(self) -> None:
        """Wait for the GPU and give its memory back."""
        self._counters.free()
        self._passes.free()


class TensorrtGpuStream:
    """One batch after the other; one that takes several passes is run twice, for its range is that of the whole batch."""

    def __init__(self, forward: Forward, regions: Regions, device: Device, watch: Watch) -> None:
        self._counters = TensorrtCounters(device, regions)
        self._passes = _Passes(forward, PassTables(device, regions, forward.slots), self._counters.measures)
        self._tell, self._looks = watch.tell, Looks(watch)
        self.images = 0

    def add(self, batch: Batch) -> None:
        """Count batch; see Stream."""
        if len(batch) > self._passes.images_a_pass:
            self._run(batch, self._counters.measure)
        self._run(batch, self._counters.count)
        self._counters.end_batch()
        self.images += len(batch)
        if self._looks.take(self.images):
            self._tell(self.images, self.finish())

    def _run(self, batch: Batch, use: Callable[[Work, int], None]) -> None:
        for start in range(0, len(batch), self._passes.images_a_pass):
            images = batch[start : start + self._passes.images_a_pass]
            self._passes.fill(0, images)
            self._passes.run(len(images), self.images + start, use)

    def finish(self) -> list[Histogram]:
        """Return the histograms by region; see Stream."""
        self._counters.measures.raise_nonfinite()
        return list(self._counters.histograms())

    def close(self) -> None:
        """Wait for the GPU and give its memory back."""
        self._counters.free()
        self._passes.free()
