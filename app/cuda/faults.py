"""What CUDA's and TensorRT's words of failure mean: out of memory, a GPU that is gone, or something else."""

from collections.abc import Sequence

from app.errors import GpuLost, GpuOom, Problem

_NO_MEMORY = ("out of memory", "outofmemory", "out_of_memory", "insufficient memory", "memory allocation failed")
#: After these the process's context, or the GPU, is of no use any more; a new process may find it well again.
_LOST = (
    "illegal memory access", "illegal address", "misaligned address", "illegal instruction", "launch failed", "launch failure",
    "launch timed out", "uncorrectable ecc", "unknown error", "no cuda-capable device", "device unavailable",
    "context is destroyed", "hardware stack error", "invalid program counter", "system not yet initialized",
    "busy or unavailable", "device-side assert", "poisoned", "gpu is lost", "fell off the bus",
)  # fmt: skip


def find_gpu_problem(lines: Sequence[str]) -> Problem | None:
    """Return the GPU problem that the lines tell of; None where they are about something else."""
    words = " ".join(lines).lower()
    # A lost context answers every later allocation with some failure, so this comes first.
    if any(sign in words for sign in _LOST):
        return GpuLost(reason=_line_with(lines, _LOST))
    return GpuOom(reason=_line_with(lines, _NO_MEMORY)) if any(sign in words for sign in _NO_MEMORY) else None


def _line_with(lines: Sequence[str], signs: Sequence[str]) -> str:
    return next(line for line in lines if any(sign in line.lower() for sign in signs))
