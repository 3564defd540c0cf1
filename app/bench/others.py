"""Other calibrators on the same images: onnxruntime.quantization's Entropy, and nvidia-modelopt's.

The latter runs in an environment of its own, so nothing is imported here but numpy, onnx and onnxruntime.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from app.bench.meter import Meter
from app.bench.subject import Subject, fill_batch

Report = Callable[[dict[str, Any]], None]

#: Both keep every activation of what they are given at once; ONNX Runtime's may be given the images bit by bit.
_IMAGES_A_CALL = 16
_MAX_PROTOBUF_BYTES = 1_900_000_000


def ort_entropy(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Calibrate by onnxruntime.quantization's Entropy calibrator with 2048 bins; return what a Meter does, and `amax`.

    request: {"subject"}. 128 quantized bins, symmetric, all tensors that it chooses, 16 images a call of collect_data.
    """
    subject = Subject.from_json(request["subject"])
    options = {"num_bins": 2048, "num_quantized_bins": 128, "symmetric": True}
    meter = Meter()
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        calibrator = create_calibrator(
            subject.model,
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod.Entropy,
            providers=["CPUExecutionProvider"],
            extra_options=options,
        )
        meter.started()
        waiting = feeds(subject)
        while some := list(islice(waiting, _IMAGES_A_CALL)):
            calibrator.collect_data(_Reader(some))
        ranges = calibrator.compute_data().data
    amax = {name: float(np.max(np.abs(np.asarray(data.range_value, np.float64)))) for name, data in ranges.items()}
    return meter.ended() | {"tensors": len(amax), "amax": amax}


def modelopt(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Quantize by nvidia-modelopt with its entropy calibrator on the CPU; return what a Meter does, and `amax`.

    request: {"subject"}. Its time includes the writing of the Q/DQ model, from which the scales are read.
    """
    from modelopt.onnx.quantization import quantize  # pyright: ignore[reportMissingImports] - see the docstring above

    subject = Subject.from_json(request["subject"])
    images = np.concatenate(list(subject.batches(256)))
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        out = Path(folder, "quantized.onnx")
        model = copy_model(subject.model, Path(folder))
        meter = Meter()
        quantize(
            str(model),
            quantize_mode="int8",
            calibration_data=images,
            calibration_method="entropy",
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(out),
            log_level="ERROR",
        )
        measured = meter.ended()
        amax = amax_from_qdq(onnx.load(out))
    return measured | {"tensors": len(amax), "amax": amax}


def copy_model(model_path: str, folder: Path) -> Path:
    """Return the path of a copy in folder: modelopt 0.47 writes the file that it was given anew."""
    model, copy = onnx.load(model_path), folder / "model.onnx"
    onnx.save_model(model, copy, save_as_external_data=model.ByteSize() > _MAX_PROTOBUF_BYTES, location="model.data")
    return copy


def amax_from_qdq(model: onnx.ModelProto) -> dict[str, float]:
    """Return 127 * scale of every activation that a Q/DQ model quantizes per tensor."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    amax: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants and node.input[1] in constants:
            scale = numpy_helper.to_array(constants[node.input[1]])
            if scale.size == 1:
                amax[node.input[0]] = 127 * float(scale.reshape(()))
    return amax


def feeds(subject: Subject) -> Iterator[dict[str, np.ndarray]]:
    """Yield all images by the input's name, one at a time, or as many as a fixed batch takes; the last one is filled."""
    model = onnx.load(subject.model, load_external_data=False)
    constants = {tensor.name for tensor in model.graph.initializer}
    given = next(value for value in model.graph.input if value.name not in constants)  # old models list weights as inputs
    dimension = given.type.tensor_type.shape.dim[0]
    size = dimension.dim_value if dimension.HasField("dim_value") else 1
    for batch in subject.batches(size):
        yield {given.name: fill_batch(batch, size)}


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray]:
        return next(self._feeds, {})  # an empty one ends the stream
