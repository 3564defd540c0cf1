"""A plan on the GPU, ready to run: its tensors, their buffers at one shape, and the launch."""

from dataclasses import dataclass

import numpy as np

from app.cuda.buffers import DeviceBuffer, open_stream, pinned_array
from app.cuda.device import raising_gpu_problems
from app.cuda.runtime import TensorRt

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """What an input may be: the least, the usual and the largest shape of its optimization profile."""

    least: Shape
    usual: Shape
    largest: Shape


class Execution:
    """An engine with one execution context and one stream, within `open_device`. `close` gives its memory back."""

    def __init__(self, tensorrt: TensorRt, plan: bytes) -> None:
        trt, self._tensorrt = tensorrt.module, tensorrt
        self._runtime = trt.Runtime(tensorrt.log)
        self._runtime.engine_host_code_allowed = True  # version-compatible plans carry some; these are our own
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise tensorrt.failure()
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise tensorrt.failure()
        self.stream = open_stream()
        names = [self.engine.get_tensor_name(position) for position in range(self.engine.num_io_tensors)]
        is_input = {name: self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]
        self._types = {name: np.dtype(trt.nptype(self.engine.get_tensor_dtype(name))) for name in names}
        self._buffers: dict[str, DeviceBuffer] = {}
        self._pinned: dict[str, np.ndarray] = {}

    def span(self, name: str) -> Span:
        """Return the shapes that an input may have."""
        least, usual, largest = (tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, 0))
        return Span(least, usual, largest)

    def take_shapes(self, shapes: dict[str, Shape]) -> None:
        """Make every input that shape and give all tensors memory. Raises GpuOom, EngineProblem for a wrong shape."""
        for name in self.inputs:
            if not self.context.set_input_shape(name, shapes[name]):
                raise self._tensorrt.failure()
        for name in (*self.inputs, *self.outputs):
            shape = tuple(self.context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise self._tensorrt.problem(f"the shape of its output {name} is known only after a run")
            self._provide(name, shape)

    def upload(self, name: str, array: np.ndarray) -> None:
        """Copy an input's values to the GPU, in the order of the stream."""
        self._pinned[name][...] = array
        self._buffers[name].upload(self._pinned[name], self.stream)

    def enqueue(self) -> None:
        """Run once, in the order of the stream. Raises EngineProblem, GpuOom, GpuLost."""
        if not self.context.execute_async_v3(self.stream.handle):
            raise self._tensorrt.failure()

    def download(self) -> dict[str, np.ndarray]:
        """Wait for the stream and return a copy of every output."""
        with raising_gpu_problems():
            for name in self.outputs:
                self._buffers[name].download(self._pinned[name], self.stream)
            self.stream.synchronize()
        return {name: self._pinned[name].copy() for name in self.outputs}

    def close(self) -> None:
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._pinned.clear()

    def _provide(self, name: str, shape: Shape) -> None:
        if name in self._pinned and self._pinned[name].shape == shape:
            return
        if name in self._buffers:
            self._buffers[name].free()
        self._pinned[name] = pinned_array(shape, self._types[name])
        self._buffers[name] = DeviceBuffer(self._pinned[name].nbytes)
        self.context.set_tensor_address(name, self._buffers[name].pointer)
