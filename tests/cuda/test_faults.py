"""What CUDA's and TensorRT's words mean for a job."""

import pytest

from app.cuda.faults import find_gpu_problem
from app.errors import GpuLost, GpuOom


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("cuMemAlloc failed: out of memory", GpuOom),
        ("Error Code 2: OutOfMemory (Requested size was 21474836480 bytes.)", GpuOom),
        ("Error Code 1: Cuda Runtime (an illegal memory access was encountered)", GpuLost),
        ("cuCtxSynchronize failed: unspecified launch failure", GpuLost),
        ("cuInit failed: no CUDA-capable device is detected", GpuLost),
        ("cuStreamSynchronize failed: uncorrectable ECC error encountered", GpuLost),
    ],
)
def test_gpu_problems_are_told_apart(line: str, problem: type[Exception]) -> None:
    found = find_gpu_problem(["[MemUsageChange] Init CUDA", line])
    assert type(found) is problem
    assert line in str(found)


def test_a_lost_gpu_outweighs_the_memory_that_it_denies() -> None:
    lines = ["cuMemAlloc failed: out of memory", "Cuda Runtime (unspecified launch failure)"]
    assert type(find_gpu_problem(lines)) is GpuLost


def test_other_words_are_no_gpu_problem() -> None:
    assert find_gpu_problem(["Error Code 4: Internal Error (no implementation for node Conv_3)"]) is None
