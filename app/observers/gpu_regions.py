"""What the counting kernels get: tables of regions and work items, in the layout of `counting.cu`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.observers.batch_axis import assume_batch_axis
from app.observers.regions import Regions

#: Values of a work item; a 16-bit bin holds all of them. A multiple of 4, for loads of 16 bytes.
ITEM_VALUES = 32768

REGION = np.dtype([("values", "<u8"), ("size", "<u8"), ("low", "<f4"), ("high", "<f4"), ("images", "<u4"), ("unused", "<u4")])
ITEM = np.dtype([("region", "<u4"), ("number", "<u4")])
EXTREMES = np.dtype([("largest", "<i4"), ("highest", "<u4"), ("lowest", "<u4")])
NONFINITE = np.dtype([("count", "<u4"), ("first_image", "<u4")])

#: Arguments of every kernel: P a pointer, I an unsigned number.
SIGNATURES = {
    "measure": "PPIPPP",
    "widen_mergeable": "PPP",
    "count_mergeable": "PPPP",
    "widen_tensorrt": "PPP",
    "count_tensorrt": "PPPP",
    "end_batch": "P",
    "compare_images": "PPP",
}


class Memory(Protocol):
    """A run of bytes that kernels work on."""

    pointer: int
    size: int


class Flag(Protocol):
    """A word that a kernel sets and the host sees, without waiting for anything."""

    pointer: int

    @property
    def is_set(self) -> bool: ...


class Device(Protocol):
    """What launches the kernels and holds their memory, in one order; see `app.cuda.launch.Launcher`."""

    def allocate(self, size: int) -> Any:
        """Return that many bytes, all zero."""
        ...

    def open_flag(self) -> Flag:
        """Return a flag that is not set."""
        ...

    def upload(self, buffer: Any, array: np.ndarray) -> None:
        """Copy a contiguous array to the start of buffer."""
        ...

    def download(self, buffer: Any, array: np.ndarray) -> None:
        """Fill a contiguous array from the start of buffer."""
        ...

    def free(self, buffers: Sequence[Any]) -> None:
        """Give buffers back."""
        ...

    def launch(self, name: str, blocks: int, *arguments: int) -> None:
        """Launch a kernel of `counting.cu`."""
        ...


@dataclass(frozen=True)
class Placed:
    """By tensor the axis along which its images lie, as far as one was found, and the names of tensors that mix images."""

    batch_axes: tuple[int | None, ...] = ()
    mixed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Fetched:
    """Where the tensors of a pass are: fetched ones in their order, the input last; shapes with the batch axis.

    `placed`: what a trial said of where the images lie in each tensor.
    """

    pointers: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    images: int
    placed: Placed = Placed()

    @property
    def batch_axes(self) -> tuple[int | None, ...]:
        """The axis along which the images lie in each tensor, None where it is the same for all images."""
        found = self.placed.batch_axes or (None,) * len(self.shapes)
        pairs = zip(found, self.shapes, strict=True)
        return tuple(assume_batch_axis(shape, self.images) if axis is None else axis for axis, shape in pairs)

    def sizes(self, images: int) -> npt.NDArray[np.int64]:
        """Return how many values of each tensor belong to the first images of the pass."""
        sizes = np.array([np.prod(shape, dtype=np.int64) for shape in self.shapes], np.int64)
        has_images = np.array([axis is not None for axis in self.batch_axes])
        return np.where(has_images, sizes * images // self.images, sizes)


@dataclass(frozen=True, eq=False)
class Work:
    """A launch over all regions of a pass: pointers to its tables, how many items there are, and values of each region."""

    regions: int
    items: int
    blocks: int
    sizes: npt.NDArray[np.int64]


def region_table(regions: Regions, fetched: Fetched, images: int) -> np.ndarray:
    """Return REGION[R] of the first images of a pass."""
    table = np.zeros(len(regions.sources), REGION)
    table["values"] = np.array(fetched.pointers, np.uint64)[regions.sources]
    table["size"] = fetched.sizes(images)[regions.sources]
    table["low"], table["high"] = regions.clamps[:, 0], regions.clamps[:, 1]
    # Where images are no runs of values, whatever is bad counts as the first one's.
    by_image = np.array([axis == 0 for axis in fetched.batch_axes])
    table["images"] = np.where(by_image, images, 1)[regions.sources]
    return table


def item_table(table: np.ndarray) -> np.ndarray:
    """Return ITEM[I] that covers the regions of a table."""
    numbers = (table["size"].astype(np.int64) + ITEM_VALUES - 1) // ITEM_VALUES
    items = np.zeros(int(numbers.sum()), ITEM)
    items["region"] = np.repeat(np.arange(len(table)), numbers)
    starts = np.repeat(np.cumsum(numbers) - numbers, numbers)
    items["number"] = np.arange(len(items)) - starts
    return items


def compare_images(device: Device, fetched: Fetched, images: int) -> npt.NDArray[np.uint32]:
    """Return by tensor of a pass, which is run, 0 where each of the first images has the very bits of the first, else 1."""
    count = len(fetched.pointers)
    whole = np.full((count, 2), (-np.inf, np.inf), np.float32)
    table = region_table(Regions((), np.arange(count), whole, {}, frozenset()), fetched, images)
    items = item_table(table)
    regions, work, found = (device.allocate(size) for size in (table.nbytes, items.nbytes, 4 * count))
    device.upload(regions, table)
    device.upload(work, items)
    device.launch("compare_images", len(items), work.pointer, regions.pointer, found.pointer)
    differs = np.zeros(count, np.uint32)
    device.download(found, differs)
    device.free((regions, work, found))
    return differs


def read_kernels() -> str:
    """Return the source of the counting kernels."""
    return Path(__file__).with_name("counting.cu").read_text(encoding="utf-8")
