"""Kernels of our own on the GPU: loaded from machine code, launched with their memory in the order of one stream."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.cuda.buffers import DeviceBuffer
from app.cuda.device import get_driver, raising_gpu_problems

#: Threads of a block: enough to hide latencies with the few blocks that a multiprocessor's shared memory takes. On an
#: H200 the counting kernels take 0.07 ms with 512, 0.07 to 0.14 with 256 and 0.08 to 0.12 with 1024, of 33 million values.
BLOCK_THREADS = 512


class Flag:
    """A word of the host's memory that a kernel sets, at `pointer`; the host sees it without waiting for the GPU."""

    def __init__(self) -> None:
        driver = get_driver()
        with raising_gpu_problems():
            self._word = driver.pagelocked_zeros((1,), np.uint32, mem_flags=driver.host_alloc_flags.DEVICEMAP)
            self.pointer = int(self._word.base.get_device_pointer())

    @property
    def is_set(self) -> bool:
        return bool(self._word[0])


class Launcher:
    """Launches kernels, one after the other, and moves what they work on; everything waits for its turn in `stream`.

    `signatures`: the arguments of each kernel in the letters of module `struct` (P pointer, I unsigned).
    """

    def __init__(self, cubin: bytes, signatures: Mapping[str, str], stream: Any) -> None:
        self.stream = stream
        with raising_gpu_problems():
            self._module = get_driver().module_from_buffer(cubin)
            self._kernels = {name: self._module.get_function(name) for name in signatures}
        for name, letters in signatures.items():
            self._kernels[name].prepare(letters)

    def allocate(self, size: int) -> DeviceBuffer:
        """Return size bytes, all zero."""
        buffer = DeviceBuffer(size)
        buffer.clear(self.stream)
        return buffer

    def open_flag(self) -> Flag:
        """Return a flag that is not set."""
        return Flag()

    def upload(self, buffer: DeviceBuffer, array: np.ndarray) -> None:
        """Copy array to the start of buffer; it may change as soon as this returns."""
        with raising_gpu_problems():
            buffer.upload(array, self.stream)
            self.stream.synchronize()

    def download(self, buffer: DeviceBuffer, array: np.ndarray) -> None:
        """Fill array from the start of buffer, when all that was launched is done."""
        with raising_gpu_problems():
            buffer.download(array, self.stream)
            self.stream.synchronize()

    def free(self, buffers: Sequence[DeviceBuffer]) -> None:
        """Give buffers back, when all that was launched is done."""
        with raising_gpu_problems():
            self.stream.synchronize()
        for buffer in buffers:
            buffer.free()

    def launch(self, name: str, blocks: int, *arguments: int) -> None:
        """Launch a kernel; no blocks are no launch."""
        if blocks:
            with raising_gpu_problems():
                self._kernels[name].prepared_async_call((blocks, 1), (BLOCK_THREADS, 1, 1), self.stream, *arguments)
