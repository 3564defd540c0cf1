"""Observe a model file, prepared for it in a folder of its own."""

import tempfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import onnx

from app.observers.observing import Report, observe_all
from app.observers.onnxruntime import Observer, ObserverSpec
from app.observers.plan import make_plan
from app.observers.prepare import prepare_model_to_observe
from app.observers.prepared import Prepared, read_prepared
from app.quant.inner import append_inner
from app.quant.observation import Grid, Observation


def prepare(path: Path, tensors: Sequence[str], shape: tuple[int, ...], folder: Path, grid: Grid = "mergeable") -> Prepared:
    """Prepare a model for images of a batch of that shape, and read back what was written."""
    model = onnx.load(path)
    append_inner(model, tensors)
    prepare_model_to_observe(model, make_plan(model, tensors, grid), (1, *shape[1:]), folder)
    return read_prepared(folder)


def observe(
    path: Path, tensors: Sequence[str], batches: Iterable[np.ndarray], spec: ObserverSpec, report: Report
) -> Observation:
    """Return the observation of tensors of a model file over batches."""
    stream = iter(batches)
    first = next(stream, np.zeros((0, 3, 12, 12), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(path, tensors, first.shape, Path(folder), spec.grid)
        return observe_all(Observer(prepared, spec), chain([first], stream), report)
