"""A forward pass of a few images into one arena of float32, ready to be counted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from app.errors import CalibrationProblem
from app.observers.session import RUNTIME_ERRORS

Batch = npt.NDArray[np.float32]

#: Slices of the arena start at multiples of this many elements (64 bytes).
_ALIGNMENT = 16
#: A pass of small tensors takes more images, up to so many elements and images: calls cost more than the work else.
_PASS_ELEMENTS = 1 << 18
_PASS_IMAGES = 16

_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@dataclass(frozen=True, eq=False)
class Activations:
    """The fetched tensors of one pass, in fetch order, the input last: arena[starts[k] : starts[k] + sizes[k]]."""

    arena: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    images: int


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """How a pass looks: the session, its input, how many images it always takes, and the shapes of what it fetches."""

    session: ort.InferenceSession | None
    input: str
    images: int
    input_shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    is_bindable: bool

    def has_batch_axis(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of that shape holds the images of the pass one after the other."""
        return bool(shape) and shape[0] % self.images == 0


def probe_forward(session: ort.InferenceSession | None, input_name: str, image: Batch) -> ForwardPass:
    """Return the pass for images like image (`float32[1, C, H, W]` or NHWC); raises CalibrationProblem.

    The number of images of a pass depends on the model alone and never changes, so that an image gives the same bits
    in whichever batch it comes. More than one is taken only where every place in the pass computes the same bits, tried
    with noise: a black image could hide that they differ, and observations of parts must merge to that of the whole.
    """
    if session is None:
        return ForwardPass(None, input_name, 1, image.shape, (), True)
    fixed = session.get_inputs()[0].shape[0]
    if isinstance(fixed, int):
        return _make_pass(session, image, fixed)[0]
    single, _ = _make_pass(session, image, 1)
    elements = sum(math.prod(shape) for shape in single.shapes)
    wanted = min(_PASS_IMAGES, _PASS_ELEMENTS // max(elements, 1))
    if wanted < 2:
        return single
    try:
        noise = np.random.default_rng(0).random(image.shape, np.float32)
        several, outputs = _make_pass(session, noise, wanted)
    except CalibrationProblem:
        return single  # the exporter fixed the batch somewhere inside
    return several if all(_is_repeated(output, wanted) for output in outputs) else single


def _make_pass(session: ort.InferenceSession, image: Batch, images: int) -> tuple[ForwardPass, list[np.ndarray]]:
    batch = np.repeat(image, images, axis=0)
    outputs = run_session(session, batch)
    bindable = all(output.dtype == np.float32 for output in outputs) and _input_type(session) == np.float32
    shapes = tuple(output.shape for output in outputs)
    return ForwardPass(session, session.get_inputs()[0].name, images, batch.shape, shapes, bindable), outputs


def _is_repeated(output: np.ndarray, images: int) -> bool:
    if not output.ndim or output.shape[0] != images:
        return False
    rows = output.reshape(images, -1)
    return bool((rows.view(np.uint8) == rows[:1].view(np.uint8)).all())


def run_session(session: ort.InferenceSession, batch: Batch) -> list[np.ndarray]:
    """Return all outputs; raises CalibrationProblem with the runtime's words."""
    try:
        given = session.get_inputs()[0]
        return [np.asarray(output) for output in session.run(None, {given.name: batch.astype(_input_type(session))})]
    except RUNTIME_ERRORS as error:
        raise CalibrationProblem(reason=f"the model does not run on a batch of shape {batch.shape}: {error}") from None


def _input_type(session: ort.InferenceSession) -> type[np.floating]:
    kind = session.get_inputs()[0].type
    if kind not in _INPUT_TYPES:
        raise CalibrationProblem(reason=f"the model's input is {kind}; images are float32")
    return _INPUT_TYPES[kind]


class Arena:
    """The memory of one thread: the runtime writes all outputs of a pass into it, and no activation is ever copied."""

    def __init__(self, forward: ForwardPass) -> None:
        self.forward = forward
        shapes = [*forward.shapes, forward.input_shape]
        sizes = np.array([math.prod(shape) for shape in shapes], np.int64)
        padded = (sizes + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        self._starts = np.concatenate(([0], np.cumsum(padded)[:-1]))
        self._sizes = sizes
        self._floats = np.zeros(int(padded.sum()) if forward.is_bindable else 0, np.float32)
        self._binding = self._bind() if forward.is_bindable else None

    def _bind(self) -> ort.IOBinding | None:
        session = self.forward.session
        if session is None:
            return None
        binding = session.io_binding()
        address, starts = self._floats.ctypes.data, self._starts.tolist()
        for output, shape, start in zip(session.get_outputs(), self.forward.shapes, starts[:-1], strict=True):
            binding.bind_output(output.name, "cpu", 0, np.float32, list(shape), address + 4 * start)
        binding.bind_input(self.forward.input, "cpu", 0, np.float32, list(self.forward.input_shape), address + 4 * starts[-1])
        return binding

    def run(self, batch: Batch) -> Activations:
        """Run 1 to `forward.images` images; missing ones are repeated from the last and not counted."""
        images = batch.shape[0]
        if images < self.forward.images:
            batch = np.concatenate((batch, np.repeat(batch[-1:], self.forward.images - images, axis=0)))
        if not self.forward.is_bindable or batch.shape != self.forward.input_shape:
            return self._run_unbound(batch, images)
        self._floats[self._starts[-1] :][: batch.size] = batch.ravel()
        if self.forward.session is not None and self._binding is not None:
            try:
                self.forward.session.run_with_iobinding(self._binding)
            except RUNTIME_ERRORS:
                return self._run_unbound(batch, images)  # a shape that depends on the values
        shapes = [*self.forward.shapes, self.forward.input_shape]
        return Activations(self._floats, self._starts, self._counted(shapes, self._sizes, images), images)

    def _run_unbound(self, batch: Batch, images: int) -> Activations:
        outputs = run_session(self.forward.session, batch) if self.forward.session else []
        values = [*outputs, batch]
        sizes = np.array([value.size for value in values], np.int64)
        floats = np.concatenate([value.astype(np.float32).ravel() for value in values])
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        return Activations(floats, starts, self._counted([value.shape for value in values], sizes, images), images)

    def _counted(self, shapes: Sequence[tuple[int, ...]], sizes: npt.NDArray[np.int64], images: int) -> npt.NDArray[np.int64]:
        if images == self.forward.images:
            return sizes
        sliced = np.array([self.forward.has_batch_axis(shape) for shape in shapes])
        return np.where(sliced, sizes * images // self.forward.images, sizes)
