"""Counts that stay on the GPU until the end: one set of histograms a grid, filled pass by pass by `counting.cu`."""

import numpy as np

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

    def bounds(self) -> list[tuple[float, float]]:
        """Return (minimum, maximum) by region, (inf, -inf) where nothing was seen."""
        seen = np.zeros(len(self._regions), EXTREMES)
        self._device.download(self.extremes, seen)
        columns = np.stack([seen[name].astype(np.int64) for name in ("largest", "highest", "lowest")], axis=1)
        return [bounds_from_extremes(row) for row in columns]


class MergeableCounters:
    """Histograms on the grid of powers of two; passes may come in any order and size."""

    def __init__(self, device: Device, regions: Regions) -> None:
        self._device = device
        self._count = len(regions)
        self.measures = Measures(device, regions)
        self._exponents = device.allocate(self._count * 2 * 4)
        self._counts = device.allocate(self._count * 2 * SIDE_BINS * 8)
        device.upload(self._exponents, np.full((self._count, 2), _UNSET, np.int32))

    def count(self, work: Work, first_image: int) -> None:
        """Count a pass."""
        self.measures.add(work, first_image)
        counted = (self._exponents.pointer, self._counts.pointer)
        self._device.launch("widen_mergeable", 2 * self._count, self.measures.extremes.pointer, *counted)
        self._device.launch("count_mergeable", work.blocks, work.items, work.regions, *counted)

    def histograms(self) -> list[MergeableHistogram]:
        """Return the histograms by region of everything counted so far."""
        exponents = np.zeros((self._count, 2), np.int32)
        counts = np.zeros((self._count, 2, SIDE_BINS), np.int64)
        self._device.download(self._exponents, exponents)
        self._device.download(self._counts, counts)
        found = zip(self.measures.bounds(), np.maximum(exponents, MIN_EXPONENT).tolist(), counts, strict=True)
        return [_mergeable(*of_region) for of_region in found]


class TensorrtCounters:
    """TensorRT's histograms: a batch's passes between `measure` of what has no range yet and `end_batch`."""

    def __init__(self, device: Device, regions: Regions) -> None:
        self._device = device
        self._count = len(regions)
        self.measures = Measures(device, regions)
        self._widths = device.allocate(self._count * 4)
        self._counts = device.allocate(self._count * (SEARCH_BINS + 1) * 8)

    def measure(self, work: Work, first_image: int) -> None:
        """Look at a pass of a batch whose range is to be known before any of it is counted."""
        self.measures.add(work, first_image)

    def count(self, work: Work, first_image: int) -> None:
        """Count a pass; what is measured by then gives a region its first range."""
        self.measures.add(work, first_image)
        counted = (self._widths.pointer, self._counts.pointer)
        self._device.launch("widen_tensorrt", self._count, self.measures.extremes.pointer, *counted)
        self._device.launch("count_tensorrt", work.blocks, work.items, work.regions, *counted)

    def end_batch(self) -> None:
        """Close the batch: values of exactly the range are in the last bin."""
        self._device.launch("end_batch", self._count, self._counts.pointer)

    def has_all_ranges(self) -> bool:
        """Whether every region has seen a value other than zero."""
        return bool(self._read_widths().all())

    def histograms(self) -> list[TensorrtHistogram]:
        """Return the histograms by region of all whole batches."""
        counts = np.zeros((self._count, SEARCH_BINS + 1), np.int64)
        self._device.download(self._counts, counts)
        found = zip(self.measures.bounds(), self._read_widths().tolist(), counts[:, :SEARCH_BINS], strict=True)
        return [_tensorrt(*of_region) for of_region in found]

    def _read_widths(self) -> np.ndarray:
        widths = np.zeros(self._count, np.float32)
        self._device.download(self._widths, widths)
        return widths


def _mergeable(bounds: tuple[float, float], exponents: list[int], counts: np.ndarray) -> MergeableHistogram:
    count = int(counts.sum())
    if not count:
        return empty_mergeable()
    sides = [Side(exponent, row) for exponent, row in zip(exponents, counts, strict=True)]
    return MergeableHistogram(count, *bounds, *sides)


def _tensorrt(bounds: tuple[float, float], width: float, counts: np.ndarray) -> TensorrtHistogram:
    count = int(counts.sum())
    return TensorrtHistogram(count, *bounds, width, counts) if count else empty_tensorrt()
