"""Make a model ready to be observed: optimized, cut into segments, tried out. Done once, whatever the images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from app.errors import CalibrationProblem
from app.native.heap import trim_heap
from app.observers.batch_axis import assume_batch_axis, find_batch_axes, find_crossing
from app.observers.forward import Forward
from app.observers.noise import make_noise
from app.observers.optimize import optimize_model
from app.observers.prepared import Prepared, Segment, Tensor, save_prepared
from app.observers.segments import Cut, cut_graph, save_segment
from app.observers.session import open_session, run_session
from app.observers.views import Plan

#: A pass of small tensors takes more images, up to so many elements and images: calls cost more than the work else.
_PASS_ELEMENTS = 1 << 19
_PASS_IMAGES = 16

_WHOLE = "segment-0.onnx"
_NOT_THIS_SIZE = (
    "{why}; set preprocess.size to one that the model takes; where it is the number of images that is fixed inside, export it "
    "with a dynamic batch throughout, or with the input's batch fixed as well"
)
_FIXED_INSIDE = (
    "the input takes any number of images, but not one alone: where the number is fixed inside, export the model with a "
    "dynamic batch throughout, or with the input's batch fixed as well; {why}"
)
_Names = tuple[str, ...]
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def prepare_model_to_observe(model: onnx.ModelProto, plan: Plan, shape: tuple[int, ...], folder: Path) -> Prepared:
    """Write to folder all that plan needs of model (which is emptied); shape is that of one image's batch.

    Raises CalibrationProblem where onnxruntime does not load or run the model.
    """
    images = Tensor("float32", shape)
    prepared = Prepared(folder, plan, 1, {plan.input: images}, (), is_bindable=True)
    if plan.fetched:
        graph = optimize_model(model, plan.fetched, folder)
        trim_heap()
        prepared = _Trial(graph, plan, folder).prepare(shape)
    save_prepared(prepared)
    return prepared


@dataclass(frozen=True)
class _Trial:
    """An optimized graph that is run to see what comes out."""

    graph: onnx.ModelProto
    plan: Plan
    folder: Path

    def prepare(self, shape: tuple[int, ...]) -> Prepared:
        onnx.save_model(self.graph, self.folder / _WHOLE)
        given, tensors, (mixed, crossing) = self._try_whole(shape)
        if crossing is None:  # now that the session of the whole is closed
            crossing = self._try_two(np.repeat(given, 2, axis=0))
        whole = Segment(_WHOLE, (self.plan.input,), self.plan.fetched)
        prepared = Prepared(self.folder, self.plan, len(given), tensors, (whole,), _is_float(tensors), mixed, crossing)
        cuts = cut_graph(self.graph.graph, {name: _bytes(tensors[name]) for name in self.plan.fetched})
        return prepared if len(cuts) == 1 else self._cut(prepared, cuts, given) or prepared

    def _try_whole(self, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[str, Tensor], tuple[_Names, _Names | None]]:
        """Return the batch of a pass, what comes out of it, and in which tensors an image depends on the others, or would.

        Where several images are too many to try, it is not known whether they would: None.

        How many images a pass takes depends on the model alone and never changes, so that an image gives the same bits
        in whichever batch it comes. More than one is taken only where every place in the pass computes the same bits,
        whatever is in the others, tried with noise: a black image could hide that they differ, and observations of parts
        must merge to that of the whole.
        """
        session = open_session(self.folder / _WHOLE, keeps_memory=False)
        fixed = session.get_inputs()[0].shape[0]
        images, crossing = (fixed, ()) if isinstance(fixed, int) else self._choose_images(session, shape)
        given = _noise(session, shape, images)
        outputs = self._run(session, given)
        axes, mixed = [0] * len(outputs), ()
        if images > 1:
            axes, mixed = find_batch_axes(self.plan.fetched, outputs, self._run(session, _with_other_last(given)), images)
        described = [_placed(output, axis, images) for output, axis in zip(outputs, axes, strict=True)]
        tensors = dict(zip(self.plan.fetched, described, strict=True)) | {self.plan.input: _described(given)}
        return given, tensors, (mixed, crossing)

    def _choose_images(self, session: ort.InferenceSession, shape: tuple[int, ...]) -> tuple[int, _Names | None]:
        """Return how many images a pass takes, and in which tensors images would depend on one another; None: not tried."""
        given = _noise(session, shape, 1)
        try:
            single = self._run(session, given)
        except CalibrationProblem as problem:
            is_of_one_size = all(isinstance(size, int) for size in session.get_inputs()[0].shape[1:])
            said = _FIXED_INSIDE if is_of_one_size else _NOT_THIS_SIZE
            raise CalibrationProblem(reason=said.format(why=problem.facts["reason"].removesuffix("."))) from None
        wanted = min(_PASS_IMAGES, _PASS_ELEMENTS // max(sum(output.size for output in single), 1))
        if wanted < 2:
            return 1, None
        try:
            return self._try_several(session, _noise(session, shape, wanted))
        except CalibrationProblem:
            return 1, ()  # the exporter fixed the batch somewhere inside

    def _try_several(self, session: ort.InferenceSession, given: np.ndarray) -> tuple[int, _Names]:
        images, names = len(given), self.plan.fetched
        before, after = (self._run(session, batch) for batch in (given, _with_other_last(given)))
        axes, mixed = find_batch_axes(names, before, after, images)
        is_alike = not mixed and set(axes) <= {0} and all(_is_repeated(output, images) for output in before)
        return (images, ()) if is_alike else (1, find_crossing(names, before, after, images))

    def _try_two(self, given: np.ndarray) -> _Names:
        # Tensors are large here, so that only those at the ends are fetched: what crosses the images before reaches them.
        read = {name for node in self.graph.graph.node for name in node.input}
        names = tuple(name for name in self.plan.fetched if name not in read)
        batches = (given, _with_other_last(given))
        try:
            session = self._open_with_outputs(names)
            before, after = (run_session(session, names, {self.plan.input: batch}, batch.shape) for batch in batches)
        except CalibrationProblem:
            return ()  # the exporter fixed the batch somewhere inside
        return find_crossing(names, before, after, 2)

    def _run(self, session: ort.InferenceSession, batch: np.ndarray) -> list[np.ndarray]:
        return run_session(session, self.plan.fetched, {self.plan.input: batch}, batch.shape)

    def _cut(self, prepared: Prepared, cuts: list[Cut], given: np.ndarray) -> Prepared | None:
        """Return prepared with these segments, None where they do not give the very bits of the whole graph."""
        names = list(dict.fromkeys(name for cut in cuts for name in cut.outputs))
        try:
            expected = self._fetch(names, given)
            tensors = {name: tensor for name, (tensor, _) in expected.items()}
            segmented = self._save(prepared, cuts, tensors)
            found = _facts_of_segments(segmented, given)
        except (CalibrationProblem, ValueError):
            return None  # a tensor between two segments is none that can be handed over
        return segmented if found == expected else None

    def _fetch(self, names: list[str], given: np.ndarray) -> dict[str, tuple[Tensor, int]]:
        """Return type, shape and digest of each tensor as the whole graph computes it."""
        outputs = run_session(self._open_with_outputs(names), names, {self.plan.input: given}, given.shape)
        return {name: _facts(output) for name, output in zip(names, outputs, strict=True)}

    def _open_with_outputs(self, names: Sequence[str]) -> ort.InferenceSession:
        model = onnx.ModelProto()
        model.CopyFrom(self.graph)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        path = self.folder / "outputs.onnx"
        onnx.save_model(model, path)
        session = open_session(path, keeps_memory=False)
        path.unlink()
        return session

    def _save(self, prepared: Prepared, cuts: list[Cut], tensors: dict[str, Tensor]) -> Prepared:
        tensors = tensors | dict(prepared.tensors)  # of these the batch axis is known
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)) for name, tensor in tensors.items()}
        segments = []
        for number, cut in enumerate(cuts):
            segments.append(Segment(f"segment-{number}.onnx", cut.inputs, cut.outputs))
            save_segment(self.graph, cut, types, segments[-1], str(self.folder))
        return replace(prepared, tensors=tensors, segments=tuple(segments))


def _noise(session: ort.InferenceSession, shape: tuple[int, ...], images: int) -> np.ndarray:
    kind = session.get_inputs()[0].type
    if kind not in _INPUT_TYPES:
        raise CalibrationProblem(reason=f"the model's input is {kind}; images are float32")
    return np.repeat(make_noise(shape, seed=0), images, axis=0).astype(_INPUT_TYPES[kind])


def _with_other_last(given: np.ndarray) -> np.ndarray:
    other = given.copy()
    other[-1] = make_noise(given.shape[1:], seed=1)
    return other


def _described(value: np.ndarray) -> Tensor:
    if value.dtype.kind not in "fiub":
        raise CalibrationProblem(reason=f"the model computes a tensor of {value.dtype}")
    return Tensor(value.dtype.name, value.shape)


def _placed(value: np.ndarray, axis: int | None, images: int) -> Tensor:
    return replace(_described(value), batch_axis=assume_batch_axis(value.shape, images) if axis is None else axis)


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _is_float(tensors: dict[str, Tensor]) -> bool:
    return all(tensor.dtype == "float32" for tensor in tensors.values())


def _is_repeated(output: np.ndarray, images: int) -> bool:
    if not output.ndim or output.shape[0] != images:
        return False
    rows = output.reshape(images, -1)
    return bool((rows.view(np.uint8) == rows[:1].view(np.uint8)).all())


def _facts(value: np.ndarray) -> tuple[Tensor, int]:
    # Two computations of our own are compared, within one process: Python's hash of 64 bits tells them apart.
    return _described(value), hash(value.tobytes())


def _facts_of_segments(segmented: Prepared, given: np.ndarray) -> dict[str, tuple[Tensor, int]]:
    """Return the facts of every tensor as the segments compute it: each is looked at and let go."""
    passing = Forward(segmented, keeps_memory=False).run_unbound(given)
    return {name: _facts(value) for values in passing for name, value in values.items()}
