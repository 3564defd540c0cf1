"""TensorRT's INT8 calibrators, up to version 10: one that hands a known cache over, and TensorRT's own on our batches."""

from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from app.cuda.buffers import DeviceBuffer, open_stream
from app.cuda.device import raising_gpu_problems
from app.errors import UnsupportedOption
from app.quant.native_cache import algorithm_from_native_cache

#: The class of TensorRT that reads and writes caches of an algorithm.
_CLASSES = {
    "EntropyCalibration": "IInt8EntropyCalibrator",
    "EntropyCalibration2": "IInt8EntropyCalibrator2",
    "MinMaxCalibration": "IInt8MinMaxCalibrator",
}
NATIVE_ALGORITHMS = {"native-entropy": "EntropyCalibration2", "native-minmax": "MinMaxCalibration"}


class BatchFeed:
    """Hands one batch after another to TensorRT by its address on the GPU.

    TensorRT swallows what `get_batch` raises and calibrates on what it has: `error` keeps it, to be raised afterwards.
    `taken` counts whole batches, `left_out` images of a last one that was not whole, `is_finished` whether TensorRT
    asked until the end.
    """

    def __init__(self, batches: Iterator[np.ndarray], batch_size: int) -> None:
        self.batch_size = batch_size
        self.error: BaseException | None = None
        self.taken = self.left_out = 0
        self.is_finished = False
        self._batches, self._stream = batches, open_stream()
        self._buffer: DeviceBuffer | None = None

    def take(self, names: list[str]) -> list[int] | None:
        """Return the addresses of the next batch, None at the end or after a failure."""
        with self:
            if len(names) != 1:
                raise UnsupportedOption(option="a native method", reason=f"the model has {len(names)} inputs, images fill one")
            batch = None if self.is_finished else next(self._batches, None)
            if batch is not None and len(batch) == self.batch_size:
                return self._upload(batch)
            self.left_out = 0 if batch is None else len(batch)
            self.is_finished = True
        return None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.error = self.error or error
        return error is not None

    def _upload(self, batch: np.ndarray) -> list[int]:
        array = np.ascontiguousarray(batch, np.float32)
        if self._buffer is None:
            self._buffer = DeviceBuffer(array.nbytes)
        with raising_gpu_problems():
            self._buffer.upload(array, self._stream)
            self._stream.synchronize()
        self.taken += 1
        return [self._buffer.pointer]


def open_cached_calibrator(trt: ModuleType, text: bytes) -> Any:
    """Return a calibrator that hands this TRT cache text over and never runs a batch. Raises UnsupportedOption."""
    return _open(trt, algorithm_from_native_cache(text), None, text)


def open_native_calibrator(trt: ModuleType, method: str, feed: BatchFeed) -> Any:
    """Return TensorRT's own calibrator for `native-entropy` or `native-minmax`; its cache is `written` after the build."""
    return _open(trt, NATIVE_ALGORITHMS[method], feed, None)


def _open(trt: ModuleType, algorithm: str, feed: BatchFeed | None, known: bytes | None) -> Any:
    base = getattr(trt, _CLASSES.get(algorithm, ""), None)
    if base is None:
        raise UnsupportedOption(option=f"algorithm {algorithm}", reason=f"this TensorRT reads {', '.join(_CLASSES)}")

    class Calibrator(base):
        """What TensorRT calls while it builds."""

        def __init__(self) -> None:
            base.__init__(self)
            self.written: bytes | None = None

        def get_batch_size(self) -> int:
            return feed.batch_size if feed else 1

        def get_batch(self, names: list[str]) -> list[int] | None:
            return feed.take(names) if feed else None

        def read_calibration_cache(self) -> bytes | None:
            return known

        def write_calibration_cache(self, cache: Any) -> None:
            self.written = bytes(cache)

    return Calibrator()
