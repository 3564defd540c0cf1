"""TensorRT's own calibration of a model, which its builder does on the way to a plan that nobody keeps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from app.cuda.build import BuildOptions, build_plan
from app.cuda.device import open_device
from app.cuda.network import parse_network
from app.cuda.runtime import features_of, open_tensorrt
from app.engines.backend import Report
from app.engines.calibrators import BatchFeed, open_native_calibrator
from app.errors import CalibrationProblem, UnsupportedOption
from app.spec import ShapeProfile


@dataclass(frozen=True)
class NativeCalibration:
    """What TensorRT shall calibrate: `shape` is that of a whole batch of the model's only input."""

    model: Path
    method: str
    input_name: str
    shape: tuple[int, ...]
    workspace_bytes: int | None = None
    flags: tuple[str, ...] = field(default=("INT8",))


def calibrate_natively(spec: NativeCalibration, batches: Iterator[np.ndarray], report: Report) -> tuple[bytes, dict[str, Any]]:
    """Return TensorRT's cache text, and {"batches", "left_out", "version"}.

    The optimization level does not change the cache, so it is the quickest one. Raises what the batches raise,
    CalibrationProblem where TensorRT stopped before their end or wrote no cache, EngineProblem, GpuOom, GpuLost.
    """
    with open_device():
        tensorrt = open_tensorrt(report)
        if not features_of(tensorrt.module).int8_calibrator:
            raise UnsupportedOption(option=spec.method, reason=f"TensorRT {tensorrt.version} has no calibrator any more")
        feed = BatchFeed(batches, spec.shape[0])
        calibrator = open_native_calibrator(tensorrt.module, spec.method, feed)
        network = parse_network(tensorrt, spec.model, is_typed=False)
        shapes = {spec.input_name: ShapeProfile(min=spec.shape, opt=spec.shape, max=spec.shape)}
        options = BuildOptions(
            optimization_level=0, workspace_bytes=spec.workspace_bytes, flags=spec.flags, shapes=shapes, calibrator=calibrator
        )
        _build(network, options, feed)
        return _checked_cache(calibrator, feed), {
            "batches": feed.taken,
            "left_out": feed.left_out,
            "version": tensorrt.version,
        }


def _build(network: Any, options: BuildOptions, feed: BatchFeed) -> None:
    try:
        build_plan(network, options)
    finally:
        if feed.error is not None:  # whatever the builder made of it, this is what went wrong
            raise feed.error


def _checked_cache(calibrator: Any, feed: BatchFeed) -> bytes:
    if not feed.taken:
        raise CalibrationProblem(reason="TensorRT asked for no batch")
    if not feed.is_finished:
        raise CalibrationProblem(reason=f"TensorRT stopped after {feed.taken} batches, before the last one")
    if not calibrator.written:
        raise CalibrationProblem(reason=f"TensorRT wrote no cache after {feed.taken} batches")
    return calibrator.written
