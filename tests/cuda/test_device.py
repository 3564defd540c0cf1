"""What pycuda raises, wherever it is called, becomes the problem that it means; the CUDA under it fails on purpose."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from app.cuda import buffers
from app.cuda.launch import Launcher
from app.engines.calibrators import BatchFeed
from app.errors import GpuLost, GpuOom, Problem


class Memory:
    """An allocation at some address."""

    def __int__(self) -> int:
        return 4096

    def free(self) -> None:
        """Give it back."""


class Script:
    """A pycuda.driver whose calls of one name, methods among them, fail with these words."""

    def __init__(self, name: str, words: str, is_memory: bool) -> None:
        module = ModuleType("pycuda.driver")
        error = type("Error", (Exception,), {})
        memory = type("MemoryError", (error,), {})

        def fail(*_: Any) -> None:
            raise (memory if is_memory else error)(f"{name} failed: {words}")

        allocation = type("Allocation", (Memory,), {name: fail})
        calls: dict[str, Callable[..., Any]] = {
            "mem_alloc": lambda _size: allocation(),
            "memcpy_htod_async": lambda *_: None,
            "memcpy_dtoh_async": lambda *_: None,
            "memset_d8_async": lambda *_: None,
            "Stream": type("Stream", (Stream,), {name: fail}),
            "Event": object,
            "module_from_buffer": lambda _cubin: None,
        }
        for own, does in (calls | {name: fail, "Error": error, "MemoryError": memory}).items():
            setattr(module, own, does)
        self.module = module


class Stream:
    """A stream that is always done."""

    handle = 0

    def synchronize(self) -> None:
        """Wait for nothing."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make one call of pycuda fail from now on."""

    def install(name: str, words: str, is_memory: bool = False) -> None:
        monkeypatch.setitem(sys.modules, "pycuda.driver", Script(name, words, is_memory).module)

    return install


def launcher() -> Launcher:
    """Return a launcher of no kernels."""
    return Launcher(b"", {}, buffers.open_stream())


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("memcpy_htod_async", lambda: buffers.DeviceBuffer(8).upload(np.zeros(1), Stream())),
        ("memcpy_dtoh_async", lambda: buffers.DeviceBuffer(8).download(np.zeros(1), Stream())),
        ("memset_d8_async", lambda: buffers.DeviceBuffer(8).clear(Stream())),
        ("Stream", buffers.open_stream),
        ("Event", buffers.open_event),
        ("mem_alloc", lambda: buffers.DeviceBuffer(8)),
        ("free", lambda: buffers.DeviceBuffer(8).free()),
        ("module_from_buffer", launcher),
        ("memset_d8_async", lambda: launcher().allocate(8)),
        ("synchronize", lambda: launcher().upload(buffers.DeviceBuffer(8), np.zeros(1))),
        ("synchronize", lambda: launcher().download(buffers.DeviceBuffer(8), np.zeros(1))),
        ("synchronize", lambda: launcher().free([])),
        ("free", lambda: launcher().free([buffers.DeviceBuffer(8)])),
    ],
)
@pytest.mark.parametrize(
    ("words", "is_memory", "problem"), [("unspecified launch failure", False, GpuLost), ("out of memory", True, GpuOom)]
)
def test_every_call_raises_the_problem_that_it_means(
    failing: Callable[..., None], call: str, act: Callable[[], Any], words: str, is_memory: bool, problem: type[Problem]
) -> None:
    failing(call, words, is_memory)
    with pytest.raises(problem, match=words):
        act()


@pytest.mark.parametrize("call", ["mem_alloc", "memcpy_htod_async", "synchronize"])
def test_a_gpu_that_is_lost_under_tensorrt_s_calibrator_fails_as_such(failing: Callable[..., None], call: str) -> None:
    failing(call, "unspecified launch failure")
    feed = BatchFeed(iter([np.zeros((2, 3), np.float32)]), 2)
    assert feed.take(["x"]) is None
    assert isinstance(feed.error, GpuLost)
    assert feed.taken == 0
