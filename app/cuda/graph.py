"""CUDA graphs, which pycuda does not know: many launches become one, so that the host's pace is not measured."""

import ctypes
from collections.abc import Callable
from typing import Any

from app.cuda.device import problem_from_cuda

_THREAD_LOCAL = 1


class CudaGraph:
    """What `enqueue` put into a stream, captured once and launched as often as wanted. In the current context."""

    def __init__(self, enqueue: Callable[[], None], stream: Any) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._stream = ctypes.c_void_p(stream.handle)
        graph, self._runnable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            enqueue()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._runnable), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Run it once, in the order of its stream."""
        self._call("cuGraphLaunch", self._runnable, self._stream)

    def free(self) -> None:
        self._call("cuGraphExecDestroy", self._runnable)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            words = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(words))
            told = words.value.decode() if words.value else f"error {code}"
            raise problem_from_cuda(f"{name}: {told}")
