"""A GPU on the CPU: the very source of the counting kernels, compiled by g++, and memory of numpy's."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from app.observers import gpu_regions
from app.observers.forward import Batch
from app.observers.gpu_regions import ITEM_VALUES, SIGNATURES, Fetched, Placed

HERE = Path(__file__).parent
_THREADS = 8
_TYPES = {"P": ctypes.c_void_p, "I": ctypes.c_uint}


def build_library(folder: Path) -> ctypes.CDLL:
    """Compile the kernels; skips the test where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: the kernels cannot be compiled for the CPU")
    library = folder / "kernels.so"
    sources = Path(gpu_regions.__file__).parent
    options = ["-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", f"-DITEM={ITEM_VALUES}"]
    subprocess.run(["g++", *options, f"-I{sources}", str(HERE / "gpu.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class HostMemory:
    """Bytes that the compiled kernels work on."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Of 16 bytes alignment, like every allocation of a GPU.
        self.bytes = np.zeros(size + 16, np.uint8)
        offset = -self.bytes.ctypes.data % 16
        self.bytes = self.bytes[offset : offset + size]
        self.pointer = self.bytes.ctypes.data


class HostFlag:
    """A word that a kernel sets."""

    def __init__(self) -> None:
        self._memory = HostMemory(4)
        self.pointer = self._memory.pointer

    @property
    def is_set(self) -> bool:
        return bool(self._memory.bytes.view(np.uint32)[0])


class EmulatedDevice:
    """What `app.cuda.launch.Launcher` is on a GPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def allocate(self, size: int) -> HostMemory:
        return HostMemory(size)

    def open_flag(self) -> HostFlag:
        return HostFlag()

    def upload(self, buffer: HostMemory, array: np.ndarray) -> None:
        content = array.reshape(-1).view(np.uint8)
        buffer.bytes[: content.size] = content

    def download(self, buffer: HostMemory, array: np.ndarray) -> None:
        content = array.reshape(-1).view(np.uint8)
        content[:] = buffer.bytes[: content.size]

    def free(self, buffers: Sequence[HostMemory]) -> None:
        """Nothing to do: numpy's memory goes by itself."""

    def launch(self, name: str, blocks: int, *arguments: int) -> None:
        kernel = getattr(self._library, f"launch_{name}")
        words = [_TYPES[letter](value) for letter, value in zip(SIGNATURES[name], arguments, strict=True)]
        kernel(ctypes.c_uint(blocks), ctypes.c_uint(_THREADS), *words)


@dataclass
class HostForward:
    """Passes whose fetched tensors `compute` gives for a batch, written where the kernels look for them."""

    compute: Callable[[Batch], Sequence[np.ndarray]]
    shapes: tuple[tuple[int, ...], ...]
    slots: list[Fetched] = field(default_factory=list)

    def __post_init__(self) -> None:
        *fetched, given = self.shapes
        self._tensors = [HostMemory(4 * int(np.prod(shape))) for shape in fetched]
        self._inputs = [HostMemory(4 * int(np.prod(given))) for _ in range(2)]
        pointers = [memory.pointer for memory in self._tensors]
        self.slots = [Fetched((*pointers, memory.pointer), self.shapes, given[0]) for memory in self._inputs]

    def fill(self, slot: int, first: int, images: Batch) -> None:
        """See `app.observers.gpu_streams.Forward`."""
        self._images(slot)[first : first + len(images)] = images

    def run(self, slot: int, images: int) -> None:
        """See `app.observers.gpu_streams.Forward`."""
        given = self._images(slot)
        given[images:] = given[images - 1]
        for memory, values in zip(self._tensors, self.compute(given), strict=True):
            memory.bytes[:] = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)

    def read(self, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
        """See `app.observers.gpu_streams.Forward`."""
        return self._tensors[tensor].bytes.view(np.float32)[: int(np.prod(shape))].reshape(shape).copy()

    def write(self, tensor: int, values: np.ndarray) -> None:
        """See `app.observers.gpu_streams.Forward`."""
        self._tensors[tensor].bytes.view(np.float32)[: values.size] = values.ravel()

    def place(self, placed: Placed) -> None:
        """Note where the images lie in the tensors."""
        self.slots = [replace(slot, placed=placed) for slot in self.slots]

    def release(self, slot: int) -> None:
        """See `app.observers.gpu_streams.Forward`."""

    def _images(self, slot: int) -> Batch:
        return self._inputs[slot].bytes.view(np.float32).reshape(self.shapes[-1])
