"""The GPU observer: run the FP32 graph with TensorRT and count its activations where they are; only counts come back.

The same plan of what is fetched and what follows from it, the same regions and the same observation as
`app.observers.onnxruntime`; values differ by how a GPU rounds its sums. Everything happens in the process's own CUDA
context, so this belongs into the child of a step.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import onnx

from app.cuda.compile import compile_cubin
from app.cuda.device import open_device
from app.cuda.launch import Launcher
from app.cuda.log import Report
from app.cuda.runtime import open_tensorrt
from app.errors import CalibrationProblem, DatasetTooSmall, EngineProblem, GpuOom
from app.observers.derived import Passes, derive_histograms
from app.observers.gpu_forward import GpuForward
from app.observers.gpu_model import PassModel
from app.observers.gpu_regions import ITEM_VALUES, SIGNATURES, read_kernels
from app.observers.gpu_streams import MergeableGpuStream, TensorrtGpuStream
from app.observers.gpu_trial import are_images_alike, find_places
from app.observers.plan import make_plan
from app.observers.regions import make_regions
from app.observers.streams import Stream
from app.observers.watch import Watch
from app.quant.histogram import Histogram
from app.quant.inner import append_inner
from app.quant.observation import Grid, Observation

#: A pass of the mergeable grid takes so many images: a function of the model alone, so that parts merge to the whole.
PASS_IMAGES = 32
_PASS_BYTES = 2 << 30
#: On TensorRT's grid a pass is a whole batch, unless its activations need more than this.
_BATCH_BYTES = 8 << 30
_MOST_LOOKS = 3


@dataclass(frozen=True)
class GpuObserverSpec:
    """How to observe: the grid, the images to come if known, on which of this machine's GPUs.

    `watch` and `known_images` are as of `app.observers.onnxruntime.ObserverSpec`, for the last few doublings alone: a
    look reads all counts back, and the GPU waits meanwhile.
    """

    grid: Grid = "mergeable"
    total_images: int | None = None
    device: int = 0
    watch: Callable[[Observation], None] | None = None
    known_images: int = 0


class GpuObserver:
    """Counts the activations of batch after batch, as `app.observers.onnxruntime.Observer` does; to be used in a `with`."""

    def __init__(self, model_path: Path, tensors: Sequence[str], spec: GpuObserverSpec, report: Report) -> None:
        """Read the model; raises CalibrationProblem for unknown tensors. What is worth saying is reported."""
        self._model = onnx.load(model_path)
        self._spec, self._report = spec, report
        append_inner(self._model, tensors)
        self._plan = make_plan(self._model, tensors, spec.grid)
        self._regions = make_regions(self._plan, spec.grid)
        self._forward: GpuForward | None = None
        self._stream: Stream | None = None
        self._resources = ExitStack()
        #: Fetched tensors in which images of a pass depend on one another, known with the first batch.
        self.mixed: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Open the GPU. Raises EngineProblem without TensorRT, WorkerProblem, GpuLost."""
        self._tensorrt = open_tensorrt(lambda _: None)
        self.device = self._resources.enter_context(open_device(self._spec.device))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # What is on the GPU goes before its context does, whoever still holds these objects.
        with self._resources:
            if self._stream is not None:
                self._stream.close()
            if self._forward is not None:
                self._forward.free()
            self._stream = self._forward = None

    @property
    def images(self) -> int:
        """Images that were handed to the GPU by now."""
        return self._stream.images if self._stream else 0

    @property
    def images_a_pass(self) -> int:
        """Images that the GPU computes at once; 0 before it is known."""
        return self._forward.slots[0].images if self._forward else 0

    @property
    def unit_images(self) -> int:
        """Images that are counted together or not at all; see `observing.Observer`. Known with the first batch."""
        return self.images_a_pass if self.mixed else 1

    @property
    def total_images(self) -> int | None:
        """Images to come in all, if known."""
        return self._spec.total_images

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Count a batch, `float32[N, C, H, W]` or NHWC; on grid tensorrt batches matter as such.

        Raises CalibrationNonfinite with the image's place in the stream, maybe from a later call, CalibrationProblem
        where TensorRT does not take the model, GpuOom, GpuLost.
        """
        if len(batch):
            stream = self._stream or self.open(batch.shape)
            stream.add(batch)

    def open(self, shape: tuple[int, ...]) -> Stream:
        """Get ready for batches of that shape, as the first `add` does: build the pass and try it. Raises as add does."""
        self._forward, self._launcher = self._open_passes(shape)
        return self.restart()

    def restart(self) -> Stream:
        """Forget what was counted, once the pass is built: the next image is the first one again."""
        assert self._forward is not None
        if self._stream is not None:
            self._stream.close()
        make = MergeableGpuStream if self._spec.grid == "mergeable" else TensorrtGpuStream
        self._stream = make(self._forward, self._regions, self._launcher, self._watch())
        return self._stream

    def _watch(self) -> Watch:
        if self._spec.watch is None:
            return Watch()
        return Watch(self._spec.total_images, self._spec.known_images, partial(self._tell, self._spec.watch), _MOST_LOOKS)

    def _tell(self, watch: Callable[[Observation], None], images: int, counted: list[Histogram]) -> None:
        watch(self._observation(images, counted))

    def observation(self) -> Observation:
        """Return what was observed so far; more may be added. Raises as add does, DatasetTooSmall without images."""
        if self._stream is None or self._forward is None:
            raise DatasetTooSmall(images=0, needed=1, reason="calibration measures activations on images")
        counted = self._stream.finish()
        return self._observation(self._stream.images, counted)

    def _observation(self, images: int, counted: list[Histogram]) -> Observation:
        assert self._forward is not None
        fetched = self._forward.slots[0]
        shapes = dict(zip((*self._plan.fetched, self._plan.input), fetched.shapes, strict=True))
        passes = Passes(images, fetched.images, shapes)
        return Observation(self._spec.grid, passes.images, derive_histograms(self._plan, self._regions, counted, passes))

    def _open_passes(self, shape: tuple[int, ...]) -> tuple[GpuForward, Launcher]:
        most, limit = (PASS_IMAGES, _PASS_BYTES) if self._spec.grid == "mergeable" else (shape[0], _BATCH_BYTES)
        if not self._plan.fetched:
            return self._with_launcher(GpuForward(self._tensorrt, (most, *shape[1:]), None))
        model = PassModel(self._tensorrt, self._model, self._plan.fetched)
        images = model.find_images(shape[1:], most, limit)
        while True:
            try:
                opened = self._with_launcher(model.open((images, *shape[1:])))
                if model.fixed_images and images > 1:
                    self._place_images(opened[0])
                    return opened
                if images == 1 or are_images_alike(*opened):
                    return opened
                opened[0].free()
                why, fewer = "images of a pass are not computed alike.", 1
            except (GpuOom, CalibrationProblem, EngineProblem) as problem:
                if images == 1 or model.fixed_images:
                    raise
                why, fewer = problem.detail, images // 2 if isinstance(problem, GpuOom) else 1
            images = fewer
            self._tensorrt.log.errors.clear()  # they would explain the next failure as well
            self._report({"log": f"{why} Trying with {images} images a pass."})

    def _place_images(self, forward: GpuForward) -> None:
        placed = find_places(forward, self._plan.fetched)
        forward.place(placed)
        self.mixed = placed.mixed

    def _with_launcher(self, forward: GpuForward) -> tuple[GpuForward, Launcher]:
        cubin = compile_cubin(read_kernels(), self.device.compute_capability, {"ITEM": ITEM_VALUES})
        return forward, Launcher(cubin, SIGNATURES, forward.stream)
