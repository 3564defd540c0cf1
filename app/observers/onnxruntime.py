"""The CPU observer: run the FP32 graph with onnxruntime and count its activations, memory flat in the images.

One session of one thread is shared by as many Python threads as there are cores; each has its arena and its counts,
and neither the forward pass nor the counting holds the GIL.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from app.errors import DatasetTooSmall
from app.observers.forward import Forward
from app.observers.views import count_padding
from app.observers.prepared import Prepared
from app.observers.regions import make_regions
from app.observers.streams import MergeableStream, Stream, TensorrtStream
from app.quant.histogram import Histogram, MergeableHistogram, add_zeros, relu_of_mergeable
from app.quant.observation import Grid, Observation

Report = Callable[[dict[str, Any]], None]

_REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class ObserverSpec:
    """How to observe: the grid, threads (default: the cores this process may use), images to come if known."""

    grid: Grid = "mergeable"
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    total_images: int | None = None


class Observer:
    """Counts the activations of batch after batch; a context manager, for it holds threads."""

    def __init__(self, prepared: Prepared, spec: ObserverSpec) -> None:
        """Open a prepared model; raises CalibrationProblem where onnxruntime does not load it."""
        self._prepared = prepared
        self._spec = spec
        self._regions = make_regions(prepared, spec.grid)
        make = MergeableStream if spec.grid == "mergeable" else TensorrtStream
        self._stream: Stream = make(Forward(prepared), self._regions, spec.threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    @property
    def images(self) -> int:
        """Images whose activations are counted by now."""
        return self._stream.images

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
        regions = self._stream.finish()
        if not self._stream.images:
            raise DatasetTooSmall(images=0, needed=1, reason="calibration measures activations on images")
        histograms: dict[str, Histogram] = {}
        for name, view in self._prepared.plan.views.items():
            histogram = regions[self._regions.region_of[name]]
            if name in self._regions.rectified and isinstance(histogram, MergeableHistogram):
                histogram = relu_of_mergeable(histogram)
            zeros = count_padding(self._prepared.tensors[view.source].shape, view) // self._prepared.images
            histograms[name] = add_zeros(histogram, zeros * self._stream.images)
        return Observation(self._spec.grid, self._stream.images, histograms)


def observe(
    observer: Observer, batches: Iterable[npt.NDArray[np.float32]], report: Report
) -> Observation:
    """Return the histograms of all that the observer counts over all batches.

    Batches are `float32[N, C, H, W]` (or NHWC, as the model takes it) in sorted path order. Reports
    `{"progress": [images done, total or None]}`. Raises CalibrationNonfinite, DatasetTooSmall, CalibrationProblem.
    """
    reported_at = time.monotonic()
    with observer:
        for batch in batches:
            observer.add(batch)
            if time.monotonic() - reported_at >= _REPORT_SECONDS:
                reported_at = time.monotonic()
                report({"progress": [observer.images, observer.total_images]})
        observation = observer.observation()
    report({"progress": [observation.images, observer.total_images]})
    return observation
