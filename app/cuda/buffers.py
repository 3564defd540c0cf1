"""Memory of the GPU, pinned memory of the host, streams and events: thin words over pycuda, in the current context.

All of it raises GpuOom, GpuLost or WorkerProblem in the place of pycuda's errors.
"""

from types import TracebackType
from typing import Any, Self

import numpy as np

from app.cuda.device import get_driver, raising_gpu_problems


class DeviceBuffer:
    """`size` bytes of GPU memory at the address `pointer`, given back by `free` or at the end of a `with`."""

    def __init__(self, size: int) -> None:
        self.size = size
        with raising_gpu_problems():
            self._allocation = get_driver().mem_alloc(max(1, size))
        self.pointer = int(self._allocation)

    def upload(self, array: np.ndarray, stream: Any) -> None:
        """Copy a C-contiguous array to the start of the buffer, in the order of the stream.

        Overlaps with other work only from pinned memory, which must stay as it is until the stream is past this.
        """
        with raising_gpu_problems():
            get_driver().memcpy_htod_async(self.pointer, array, stream)

    def download(self, array: np.ndarray, stream: Any) -> None:
        """Fill a C-contiguous array from the start of the buffer; it is there when the stream is past this."""
        with raising_gpu_problems():
            get_driver().memcpy_dtoh_async(array, self.pointer, stream)

    def clear(self, stream: Any) -> None:
        """Set every byte to zero, in the order of the stream."""
        with raising_gpu_problems():
            get_driver().memset_d8_async(self.pointer, 0, self.size, stream)

    def free(self) -> None:
        with raising_gpu_problems():
            self._allocation.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.free()


def pinned_array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised array in page-locked memory of the host, freed with its last reference."""
    with raising_gpu_problems():
        return get_driver().pagelocked_empty(shape, dtype)


def open_stream() -> Any:
    """Return a stream; `.handle` is what TensorRT takes, `.synchronize()` waits for it."""
    with raising_gpu_problems():
        return get_driver().Stream()


def open_event() -> Any:
    """Return an event: `.record(stream)`, `.synchronize()`; `end.time_since(start)` is milliseconds."""
    with raising_gpu_problems():
        return get_driver().Event()
