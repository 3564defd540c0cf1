"""Give memory that was freed back to the system: glibc keeps what lies between pieces that are still in use."""

import ctypes


def trim_heap() -> None:
    """Let the C library return its free pages, where it knows how to (glibc does, musl frees at once)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
