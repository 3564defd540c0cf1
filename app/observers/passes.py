"""A forward pass of a few images in memory of its own; each segment is ready to be counted when the next begins."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from app.observers.batch_axis import raise_mixed
from app.observers.counting import Located
from app.observers.forward import Batch, Forward, run_segment
from app.observers.parts import Parts
from app.observers.prepared import Prepared, Tensor
from app.observers.session import RUNTIME_ERRORS

#: Gets the number of the first of some regions, and where their values are.
Visit = Callable[[int, Located], None]

#: Tensors start at multiples of this many bytes.
_ALIGNMENT = 64
#: Memory up to so much is left alone: the passes fault it in sooner than a thread starts, or it was mapped already.
_SMALL_BYTES = 8 << 20


@dataclass(frozen=True)
class _Places:
    """Where in a thread's memory each tensor starts, and how many bytes there are in all."""

    starts: Mapping[str, int]
    size: int


def place_tensors(prepared: Prepared) -> _Places:
    """Lay the tensors of a pass out so that those that live at the same time do not overlap, first fit first."""
    lives = _find_lives(prepared)
    placed: list[tuple[int, int, int, int]] = []  # first byte, one behind the last, first segment, last segment
    starts: dict[str, int] = {}
    for name, (born, dies) in sorted(lives.items(), key=lambda item: (item[1][0], -_size(prepared, item[0]))):
        size = _size(prepared, name)
        start = 0
        for first, end, other_born, other_dies in sorted(placed):
            if other_born <= dies and born <= other_dies and first < start + size and start < end:
                start = end
        starts[name] = start
        placed.append((start, start + size, born, dies))
    return _Places(starts, max(end for _, end, _, _ in placed))


def _find_lives(prepared: Prepared) -> dict[str, tuple[int, int]]:
    lives = {prepared.plan.input: (0, 0)}
    for number, segment in enumerate(prepared.segments):
        lives.update(dict.fromkeys(segment.outputs, (number, number)))
        lives.update({name: (lives[name][0], number) for name in segment.inputs})
    return lives


def _size(prepared: Prepared, name: str) -> int:
    tensor = prepared.tensors[name]
    size = math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True, eq=False)
class Memory:
    """Room for the tensors of one pass."""

    places: _Places
    room: npt.NDArray[np.uint8]

    def view(self, name: str, tensor: Tensor) -> np.ndarray:
        """Return the array of a tensor."""
        dtype, start = np.dtype(tensor.dtype), self.places.starts[name]
        return self.room[start:][: math.prod(tensor.shape) * dtype.itemsize].view(dtype).reshape(tensor.shape)


@contextmanager
def mapped_memories(prepared: Prepared, count: int) -> Iterator[list[Memory]]:
    """Give the memory of so many threads. Where it is large the system maps it meanwhile: each page would be a fault else.

    It is filled in one call without the GIL, so that it goes on while the body holds it.
    """
    places = place_tensors(prepared)
    room = np.empty(count * places.size + _ALIGNMENT, np.uint8)
    aligned = room[-room.ctypes.data % _ALIGNMENT :]
    memories = [Memory(places, aligned[place * places.size :][: places.size]) for place in range(count)]
    with _mapped(room if prepared.is_bindable else room[:0]):
        yield memories


@contextmanager
def _mapped(room: npt.NDArray[np.uint8]) -> Iterator[None]:
    if room.nbytes <= _SMALL_BYTES:
        yield
        return
    mapping = Thread(target=room.fill, args=(0,))
    mapping.start()
    try:
        yield
    finally:
        mapping.join()


class Pass:
    """One thread's passes: the runtime writes all tensors into its memory, and no activation is ever copied."""

    def __init__(self, forward: Forward, parts: Parts, memory: Memory) -> None:
        self._forward, self._parts = forward, parts
        self.prepared = forward.prepared
        tensors = self.prepared.tensors
        self._values = {name: memory.view(name, tensors[name]) for name in memory.places.starts}
        self._bindings = [self._bind(number) for number in range(len(forward.sessions))]
        self._located = [self._locate(part, self._values, self.prepared.images) for part in range(len(parts.firsts))]

    def _bind(self, number: int) -> ort.IOBinding:
        binding, segment = self._forward.sessions[number].io_binding(), self.prepared.segments[number]
        for names, bind in ((segment.inputs, binding.bind_input), (segment.outputs, binding.bind_output)):
            for name in names:
                value = self._values[name]
                bind(name, "cpu", 0, value.dtype.type, list(value.shape), value.ctypes.data)
        return binding

    def run(self, batch: Batch, visit: Visit) -> None:
        """Run 1 to `images` images, visiting each part's regions; missing images are repeated and not counted.

        Raises CalibrationProblem.
        """
        images, wanted = len(batch), self.prepared.images
        if images < wanted:
            if self.prepared.mixed:
                raise_mixed(self.prepared.mixed[0], wanted)
            batch = np.concatenate((batch, np.repeat(batch[-1:], wanted - images, axis=0)))
        if not self.prepared.is_bindable or batch.shape != self.prepared.input_shape:
            self._run_unbound(0, {self.prepared.plan.input: batch}, images, visit)
            return
        np.copyto(self._values[self.prepared.plan.input], batch)
        for number, session in enumerate(self._forward.sessions):
            try:
                session.run_with_iobinding(self._bindings[number])
            except RUNTIME_ERRORS:
                self._run_unbound(number, self._values, images, visit)  # a shape that depends on the values
                return
            self._visit(number, images, visit)
        if not self._forward.sessions:
            self._visit(0, images, visit)

    def _visit(self, part: int, images: int, visit: Visit) -> None:
        whole = images == self.prepared.images
        visit(self._parts.firsts[part], self._located[part] if whole else self._locate(part, self._values, images))

    def _run_unbound(self, first: int, values: Mapping[str, np.ndarray], images: int, visit: Visit) -> None:
        known = dict(values)
        name = self.prepared.plan.input
        known[name] = known[name].astype(self.prepared.tensors[name].dtype)
        for number in range(first, len(self._parts.firsts)):
            if self._forward.sessions:
                segment = self.prepared.segments[number]
                known |= run_segment(self._forward.sessions[number], segment, known, known[name].shape)
            visit(self._parts.firsts[number], self._locate(number, known, images))

    def _locate(self, part: int, values: Mapping[str, np.ndarray], images: int) -> Located:
        return self._parts.locate(part, values, (images, self.prepared.images))
