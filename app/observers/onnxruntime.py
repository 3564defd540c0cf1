"""The CPU observer: run the FP32 graph with onnxruntime and count its activations, memory flat in the images.

One session of one thread is shared by as many Python threads as there are cores; each has its arena and its counts,
and neither the forward pass nor the counting holds the GIL.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import onnx

from app.errors import DatasetTooSmall
from app.observers.derived import Passes, derive_histograms
from app.observers.forward import ForwardPass, probe_forward
from app.observers.observing import Report, observe_all
from app.observers.plan import make_plan
from app.observers.regions import make_regions
from app.observers.session import open_observing_session
from app.observers.streams import MergeableStream, Stream, TensorrtStream
from app.quant.observation import Grid, Observation


@dataclass(frozen=True)
class ObserverSpec:
    """How to observe: the grid, threads (default: the cores this process may use), images to come if known."""

    grid: Grid = "mergeable"
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    total_images: int | None = None


class Observer:
    """Counts the activations of batch after batch; a context manager, for it holds threads."""

    def __init__(self, model_path: Path, tensors: Sequence[str], spec: ObserverSpec) -> None:
        """Open the model; raises CalibrationProblem for unknown tensors or a model that onnxruntime does not load."""
        model = onnx.load(model_path)
        self._spec = spec
        self._plan = make_plan(model, tensors)
        self._regions = make_regions(self._plan, spec.grid)
        self._session = open_observing_session(model, self._plan.fetched) if self._plan.fetched else None
        self._forward: ForwardPass | None = None
        self._stream: Stream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    @property
    def images(self) -> int:
        """Images whose activations are counted by now."""
        return self._stream.images if self._stream else 0

    @property
    def total_images(self) -> int | None:
        """Images to come in all, if known."""
        return self._spec.total_images

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Count a batch, `float32[N, C, H, W]` or NHWC; on grid tensorrt batches matter as such.

        Raises CalibrationNonfinite with the image's place in the stream, CalibrationProblem where the model does not
        run on such a batch; on the mergeable grid maybe later, from another call.
        """
        if not len(batch):
            return
        if self._stream is None:
            self._forward = probe_forward(self._session, self._plan.input, batch[:1])
            make = MergeableStream if self._spec.grid == "mergeable" else TensorrtStream
            self._stream = make(self._forward, self._regions, self._spec.threads)
        self._stream.add(batch)

    def observation(self) -> Observation:
        """Return what was observed so far; more may be added. Raises as add does, DatasetTooSmall without images."""
        if self._stream is None or self._forward is None:
            raise DatasetTooSmall(images=0, needed=1, reason="calibration measures activations on images")
        counted = self._stream.finish()
        shapes = dict(zip(self._plan.fetched, self._forward.shapes, strict=True)) | {
            self._plan.input: self._forward.input_shape
        }
        passes = Passes(self._stream.images, self._forward.images, shapes)
        return Observation(self._spec.grid, passes.images, derive_histograms(self._plan, self._regions, counted, passes))


def observe(
    model_path: Path,
    tensors: Sequence[str],
    batches: Iterable[npt.NDArray[np.float32]],
    spec: ObserverSpec,
    report: Report,
) -> Observation:
    """Return the histograms of tensors (activations by name, graph input and outputs included) over all batches.

    See `observe_all`. Raises CalibrationNonfinite, DatasetTooSmall, CalibrationProblem.
    """
    return observe_all(Observer(model_path, tensors, spec), batches, report)
