"""What glibc's malloc does with memory that was freed; other C libraries are left as they are."""

import ctypes

import numpy as np

#: Numbers of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Larger pieces are mapped one by one; it is what glibc's own adjustment comes to at most.
_MMAP_FROM_BYTES = 32 << 20


def trim_heap() -> None:
    """Give free pages back to the system: glibc keeps what lies between pieces that are still in use."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def map_heap(size: int) -> None:
    """Have `size` bytes, at most 32 MiB, of the heap mapped, and keep them: else each page is a fault at its first use."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MMAP_FROM_BYTES)
        np.empty(size, np.uint8).fill(0)
