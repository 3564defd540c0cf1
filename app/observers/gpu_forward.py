"""A pass on the GPU: two slots of input, uploads on a stream of their own, all other tensors where TensorRT leaves them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from app.cuda.buffers import DeviceBuffer, open_event, open_stream, pinned_array
from app.cuda.device import raising_gpu_problems
from app.cuda.runtime import TensorRt
from app.observers.forward import Batch
from app.observers.gpu_regions import Fetched, Placed

_SLOTS = 2


class InputSlot:
    """Memory for the images of one pass, on the host and on the GPU, and when it is free again."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.images = pinned_array(shape)
        self.buffer = DeviceBuffer(self.images.nbytes)
        self.uploaded, self.released = open_event(), open_event()


@dataclass(frozen=True)
class Compiled:
    """A plan whose input has one shape (float32[images, ...]), and the shapes of its outputs by name, in order."""

    plan: bytes
    outputs: dict[str, tuple[int, ...]]


class GpuForward:
    """Runs passes of `input_shape[0]` images in the order of `stream`; without a plan it uploads them and no more.

    Raises GpuOom where the GPU's memory does not suffice, EngineProblem.
    """

    def __init__(self, tensorrt: TensorRt, input_shape: tuple[int, ...], compiled: Compiled | None) -> None:
        self._tensorrt = tensorrt
        self.stream, self._uploads = open_stream(), open_stream()
        self._inputs = [InputSlot(input_shape) for _ in range(_SLOTS)]
        outputs = compiled.outputs if compiled else {}
        self._outputs = {name: DeviceBuffer(4 * math.prod(shape)) for name, shape in outputs.items()}
        self._context = self._open_context(compiled.plan) if compiled else None
        self._buffers = list(self._outputs.values())
        pointers = [buffer.pointer for buffer in self._buffers]
        shapes = (*outputs.values(), input_shape)
        self.slots: Sequence[Fetched] = [
            Fetched((*pointers, slot.buffer.pointer), shapes, input_shape[0]) for slot in self._inputs
        ]

    def _open_context(self, plan: bytes) -> Any:
        trt = self._tensorrt.module
        self._runtime = trt.Runtime(self._tensorrt.log)
        engine = self._runtime.deserialize_cuda_engine(plan)
        context = engine.create_execution_context() if engine is not None else None
        if engine is None or context is None:
            raise self._tensorrt.failure()
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        self._input = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self._engine = engine
        for name, buffer in self._outputs.items():
            context.set_tensor_address(name, buffer.pointer)
        return context

    def fill(self, slot: int, first: int, images: Batch) -> None:
        """Copy images into a slot from place `first` on, once it is free."""
        into = self._inputs[slot]
        if not first:
            with raising_gpu_problems():
                into.released.synchronize()
        into.images[first : first + len(images)] = images

    def run(self, slot: int, images: int) -> None:
        """Enqueue upload and pass; places beyond the images repeat the last one."""
        given = self._inputs[slot]
        given.images[images:] = given.images[images - 1]
        with raising_gpu_problems():
            given.buffer.upload(given.images, self._uploads)
            given.uploaded.record(self._uploads)
            self.stream.wait_for_event(given.uploaded)
        if self._context is None:
            return
        self._context.set_tensor_address(self._input, given.buffer.pointer)
        if not self._context.execute_async_v3(self.stream.handle):
            raise self._tensorrt.failure()

    def read(self, tensor: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return the first values of a fetched tensor, when the passes enqueued by now are done."""
        values = np.empty(shape, np.float32)
        with raising_gpu_problems():
            self._buffers[tensor].download(values, self.stream)
            self.stream.synchronize()
        return values

    def write(self, tensor: int, values: npt.NDArray[np.float32]) -> None:
        """Put values to the start of a fetched tensor."""
        with raising_gpu_problems():
            self._buffers[tensor].upload(np.ascontiguousarray(values), self.stream)
            self.stream.synchronize()

    def place(self, placed: Placed) -> None:
        """Note where the images lie in the tensors."""
        self.slots = [replace(slot, placed=placed) for slot in self.slots]

    def release(self, slot: int) -> None:
        """The slot is free when all that is enqueued by now is done."""
        with raising_gpu_problems():
            self._inputs[slot].released.record(self.stream)

    def free(self) -> None:
        """Wait for what runs and give the GPU's memory back."""
        with raising_gpu_problems():
            self.stream.synchronize()
        self._context = self._engine = self._runtime = None
        for buffer in (*self._outputs.values(), *(slot.buffer for slot in self._inputs)):
            buffer.free()
