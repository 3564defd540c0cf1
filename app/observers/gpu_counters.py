"""Counts that stay on the GPU until the end: one set of histograms a grid, filled pass by pass by `counting.cu`."""

import math

import numpy as np
import numpy.typing as npt

from app.errors import CalibrationNonfinite
from app.observers.collectors import bounds_from_extremes
from app.observers.gpu_regions import EXTREMES, NONFINITE, Device, Work
from app.observers.regions import Regions
from app.quant.histogram import (
    MIN_EXPONENT,
    SEARCH_BINS,
    SIDE_BINS,
    MergeableHistogram,
    Side,
    TensorrtHistogram,
    empty_mergeable,
    empty_tensorrt,
)

#: The exponent of a side that has counted nothing (`UNSET` in the kernels).
_UNSET = -127
_NO_IMAGE = 0xFFFFFFFF


class Measures:
    """The extremes of all regions, and where values were not finite."""

    def __init__(self, device: Device, regions: Regions) -> None:
        self._device = device
        self._regions = regions
        self.extremes = device.allocate(len(regions) * EXTREMES.itemsize)
        self._nonfinite = device.allocate(len(regions) * NONFINITE.itemsize)
        self._flag = device.open_flag()
        fresh = np.zeros(len(regions), EXTREMES)
        fresh["largest"], fresh["lowest"] = -(1 << 31), 0xFFFFFFFF
        device.upload(self.extremes, fresh)
        device.upload(self._nonfinite, np.array([(0, _NO_IMAGE)] * len(regions), NONFINITE))

    def add(self, work: Work, first_image: int) -> None:
        """Look at a pass whose first image is that of the stream."""
        pointers = (self.extremes.pointer, self._nonfinite.pointer, self._flag.pointer)
        self._device.launch("measure", work.blocks, work.items, work.regions, first_image, *pointers)

    def check(self) -> None:
        """Raise CalibrationNonfinite if a pass that is done had such a value; waits for nothing else."""
        if self._flag.is_set:
            self.raise_nonfinite()

    def raise_nonfinite(self) -> None:
        """Raise CalibrationNonfinite if there was such a value by now: for the first image, and its first region."""
        found = np.zeros(len(self._regions), NONFINITE)
        self._device.download(self._nonfinite, found)
        bad = np.flatnonzero(found["count"])
        if bad.size:
            region = int(bad[np.argmin(found["first_image"][bad])])
            raise CalibrationNonfinite(tensor=self._regions.names[region], image=int(found["first_image"][region]))

    def free(self) -> None:
        """Give the GPU's memory back."""
        self._device.free((self.extremes, self._nonfinite))

    def bounds(self) -> list[tuple[float, float]]:
        """Return (minimum, maximum) by region, (inf, -inf) where nothing was seen."""
        seen = np.zeros(len(self._regions), EXTREMES)
        self._device.download(self.extremes, seen)
        columns = np.stack([seen[name].astype(np.int64) for name in ("largest", "highest", "lowest")], axis=1)
        return [bounds_from_extremes(row) for row in columns]


class _Counts:
    """Counts of all regions on the GPU, int64 of that shape with the regions first, and how many values were counted."""

    def __init__(self, device: Device, shape: tuple[int, ...]) -> None:
        self._device, self._shape = device, shape
        self._memory = device.allocate(8 * math.prod(shape))
        self.pointer = self._memory.pointer
        self.values = np.zeros(shape[0], np.int64)
        self._ready: npt.NDArray[np.int64] | None = self._make_room()

    def _make_room(self) -> npt.NDArray[np.int64]:
        counts = np.empty(self._shape, np.int64)
        counts.fill(0)  # has the memory mapped now, and not page by page while counts come from the GPU
        return counts

    def read(self) -> npt.NDArray[np.int64]:
        """Return the counts by now, in an array that is the caller's."""
        counts, self._ready = self._ready, None
        counts = self._make_room() if counts is None else counts
        self._device.download(self._memory, counts)
        return counts

    def free(self) -> None:
        """Give the GPU's memory back."""
        self._device.free((self._memory,))


class MergeableCounters:
    """Histograms on the grid of powers of two; passes may come in any order and size."""

    def __init__(self, device: Device, regions: Regions) -> None:
        self._device = device
        self._regions = len(regions)
        self.measures = Measures(device, regions)
        self._exponents = device.allocate(self._regions * 2 * 4)
        self._counts = _Counts(device, (self._regions, 2, SIDE_BINS))
        device.upload(self._exponents, np.full((self._regions, 2), _UNSET, np.int32))

    def count(self, work: Work, first_image: int) -> None:
        """Count a pass."""
        self.measures.add(work, first_image)
        counted = (self._exponents.pointer, self._counts.pointer)
        self._device.launch("widen_mergeable", 2 * self._regions, self.measures.extremes.pointer, *counted)
        self._device.launch("count_mergeable", work.blocks, work.items, work.regions, *counted)
        self._counts.values += work.sizes

    def histograms(self) -> list[MergeableHistogram]:
        """Return the histograms by region of everything counted so far."""
        exponents = np.zeros((self._regions, 2), np.int32)
        self._device.download(self._exponents, exponents)
        told = (self._counts.values.tolist(), self.measures.bounds(), np.maximum(exponents, MIN_EXPONENT).tolist())
        return [_mergeable(*of_region) for of_region in zip(*told, self._counts.read(), strict=True)]

    def free(self) -> None:
        """Give the GPU's memory back."""
        self.measures.free()
        self._counts.free()
        self._device.free((self._exponents,))


class TensorrtCounters:
    """TensorRT's histograms: of a batch of several passes all are measured before the first is counted."""

    def __init__(self, device: Device, regions: Regions) -> None:
        self._device = device
        self._regions = len(regions)
        self.measures = Measures(device, regions)
        self._widths = device.allocate(self._regions * 4)
        self._counts = _Counts(device, (self._regions, SEARCH_BINS + 1))

    def measure(self, work: Work, first_image: int) -> None:
        """Look at a pass of a batch whose range is to be known before any of it is counted."""
        self.measures.add(work, first_image)

    def count(self, work: Work, first_image: int) -> None:
        """Count a pass; what is measured by then gives a region its range."""
        self.measures.add(work, first_image)
        counted = (self._widths.pointer, self._counts.pointer)
        self._device.launch("widen_tensorrt", self._regions, self.measures.extremes.pointer, *counted)
        self._device.launch("count_tensorrt", work.blocks, work.items, work.regions, *counted)
        self._counts.values += work.sizes

    def end_batch(self) -> None:
        """Close the batch: values of exactly the range are in the last bin."""
        self._device.launch("end_batch", self._regions, self._counts.pointer)

    def histograms(self) -> list[TensorrtHistogram]:
        """Return the histograms by region of all whole batches."""
        told = (self._counts.values.tolist(), self.measures.bounds(), self._read_widths().tolist())
        counts = np.ascontiguousarray(self._counts.read()[:, :SEARCH_BINS])
        return [_tensorrt(*of_region) for of_region in zip(*told, counts, strict=True)]

    def free(self) -> None:
        """Give the GPU's memory back."""
        self.measures.free()
        self._counts.free()
        self._device.free((self._widths,))

    def _read_widths(self) -> np.ndarray:
        widths = np.zeros(self._regions, np.float32)
        self._device.download(self._widths, widths)
        return widths


def _mergeable(count: int, bounds: tuple[float, float], exponents: list[int], counts: np.ndarray) -> MergeableHistogram:
    if not count:
        return empty_mergeable()
    positive, negative = (Side(exponent, row) for exponent, row in zip(exponents, counts, strict=True))
    return MergeableHistogram(count, *bounds, positive, negative)


def _tensorrt(count: int, bounds: tuple[float, float], width: float, counts: np.ndarray) -> TensorrtHistogram:
    return TensorrtHistogram(count, *bounds, width, counts) if count else empty_tensorrt()
