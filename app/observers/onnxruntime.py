"""The CPU observer: run the FP32 graph with onnxruntime and count its activations, memory flat in the images.

One session of one thread is shared by as many Python threads as there are cores; each has its arena and its counts,
and neither the forward pass nor the counting holds the GIL.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from app.errors import DatasetTooSmall
from app.observers.derived import Passes, derive_histograms
from app.observers.forward import Forward
from app.observers.parts import make_parts
from app.observers.passes import Pass, mapped_memories
from app.observers.prepared import Prepared
from app.observers.regions import make_regions
from app.observers.streams import MergeableStream, Stream, TensorrtStream
from app.observers.watch import Watch
from app.quant.histogram import Histogram
from app.quant.observation import Grid, Observation

#: A thread with its pass done waits no longer for the GIL while others, as whoever reads the images, hold it all the time.
_SWITCH_SECONDS = 0.0002


@dataclass(frozen=True)
class ObserverSpec:
    """How to observe: the grid, threads (default: the cores this process may use), images to come if known.

    `watch` is told the observation of the first images whenever they, with `known_images` observed before, have doubled
    (or a few more, so that passes are full; on grid tensorrt whole batches), while the pass goes on. See `Watch`.
    """

    grid: Grid = "mergeable"
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    total_images: int | None = None
    watch: Callable[[Observation], None] | None = None
    known_images: int = 0


class Observer:
    """Counts the activations of batch after batch; a context manager, for it holds threads."""

    def __init__(self, prepared: Prepared, spec: ObserverSpec) -> None:
        """Open a prepared model; raises CalibrationProblem where onnxruntime does not load it."""
        self._prepared = prepared
        self._spec = spec
        self._regions = make_regions(prepared.plan, spec.grid)
        self._parts = make_parts(prepared, self._regions)
        self._stream = self._open_stream()

    def _open_stream(self) -> Stream:
        passes = self._open_passes()
        open_stream = TensorrtStream if self._spec.grid == "tensorrt" else MergeableStream
        return open_stream(passes, self._parts, self._watch())

    def _open_passes(self) -> list[Pass]:
        with mapped_memories(self._prepared, self._spec.threads) as memories:
            forward = Forward(self._prepared)
        return [Pass(forward, self._parts, memory) for memory in memories]

    def _watch(self) -> Watch:
        if self._spec.watch is None:
            return Watch(self._spec.total_images, most_looks=0)
        return Watch(self._spec.total_images, self._spec.known_images, partial(self._tell, self._spec.watch))

    def _tell(self, watch: Callable[[Observation], None], images: int, by_place: list[Histogram]) -> None:
        watch(self._observation(images, by_place))

    def __enter__(self) -> Self:
        self._switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        sys.setswitchinterval(self._switch_seconds)
        self._stream.close()

    @property
    def images(self) -> int:
        """Images whose activations are counted by now."""
        return self._stream.images

    @property
    def mixed(self) -> tuple[str, ...]:
        """Tensors in which the images of a pass depend on one another."""
        return self._prepared.mixed

    @property
    def unit_images(self) -> int:
        """Images that are counted together or not at all; see `observing.Observer`."""
        return self._prepared.unit_images

    @property
    def total_images(self) -> int | None:
        """Images to come in all, if known."""
        return self._spec.total_images

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Count a batch, `float32[N, C, H, W]` or NHWC; on grid tensorrt batches matter as such.

        Raises CalibrationNonfinite with the image's place in the stream, CalibrationProblem where the model does not
        run on such a batch; on the mergeable grid maybe later, from another call.
        """
        if len(batch):
            self._stream.add(batch)

    def observation(self) -> Observation:
        """Return what was observed so far; more may be added. Raises as add does, DatasetTooSmall without images."""
        counted = self._stream.finish()
        if not self._stream.images:
            raise DatasetTooSmall(images=0, needed=1, reason="calibration measures activations on images")
        return self._observation(self._stream.images, counted)

    def _observation(self, images: int, by_place: list[Histogram]) -> Observation:
        shapes = {name: tensor.shape for name, tensor in self._prepared.tensors.items()}
        passes = Passes(images, self._prepared.images, shapes)
        counted = self._parts.by_region(by_place)
        return Observation(self._spec.grid, images, derive_histograms(self._prepared.plan, self._regions, counted, passes))
