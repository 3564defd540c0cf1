"""Other quantizers on the same images: onnxruntime.quantization's quantize_static, and nvidia-modelopt.

The latter runs in an environment of its own, so nothing is imported here but numpy, onnx and onnxruntime.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from app.bench.others import copy_model
from app.bench.subject import Subject

Report = Callable[[dict[str, Any]], None]

#: ONNX Runtime keeps every activation of what it is given at once.
_MOST_AT_ONCE = 16
_OPS = ["Conv", "Gemm", "MatMul"]


def ort_static(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Write the model that quantize_static makes to `out`, with the settings that we found to serve it best.

    Weights per channel, Q/DQ on the inputs of Conv, Gemm and MatMul alone; the rest is its default: int8, activations with
    a zero point. The model is pre-processed first, as its documentation asks. Measured on EfficientNet-Lite0, MinMax:
    agreement 0.68 by its defaults, 0.90 with weights per channel, 0.91 so.
    request: {"subject", "method": of CalibrationMethod, "out"}.
    """
    subject = Subject.from_json(request["subject"])
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(subject.model, prepared, skip_symbolic_shape=True)
        reader = _Reader(subject)
        at_once = next(size for size in range(min(_MOST_AT_ONCE, len(reader)), 0, -1) if len(reader) % size == 0)
        quantize_static(
            prepared,
            request["out"],
            reader,
            op_types_to_quantize=_OPS,
            per_channel=True,
            calibrate_method=CalibrationMethod[request["method"]],
            # CalibStridedMinMax: by its name for MinMax alone, it gives the images bit by bit to every calibrator.
            extra_options={"CalibStridedMinMax": at_once, "OpTypesToExcludeOutputQuantization": _OPS},
        )
    return {}


def modelopt(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Write the model that nvidia-modelopt's quantize makes by default to `out`, but calibrated on the CPU and float in FP32.

    request: {"subject", "out"}.
    """
    from modelopt.onnx.quantization import quantize  # pyright: ignore[reportMissingImports] - see the docstring above

    subject = Subject.from_json(request["subject"])
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        quantize(
            str(copy_model(subject.model, Path(folder))),
            quantize_mode="int8",
            calibration_data=np.concatenate(list(subject.batches(256))),
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=request["out"],
            log_level="ERROR",
        )
    return {}


class _Reader(CalibrationDataReader):
    """Feeds one image at a time (or the model's fixed batch), of a range that may be set."""

    def __init__(self, subject: Subject) -> None:
        given = onnx.load(subject.model, load_external_data=False).graph.input[0]
        dimension = given.type.tensor_type.shape.dim[0]
        size = dimension.dim_value if dimension.HasField("dim_value") else 1
        self._feeds = [{given.name: batch} for batch in subject.batches(size) if len(batch) == size]
        self.set_range(0, len(self._feeds))

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._waiting = iter(self._feeds[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray]:
        return next(self._waiting, {})  # an empty one ends the stream
