"""The session that runs the FP32 graph: one thread, the wanted tensors as outputs, left in the layout of the kernels."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.capi import (
    onnxruntime_pybind11_state as states,  # pyright: ignore[reportAttributeAccessIssue] - a C module without stubs
)

from app.errors import CalibrationProblem

#: onnxruntime has no common base class of its errors.
RUNTIME_ERRORS = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoSuchFile,
    states.NotImplemented,
    states.RuntimeException,
    RuntimeError,  # what run_with_iobinding raises
)

#: MLAS blocks 16 channels with AVX-512 and 8 without; whole blocks of 16 have no padding in either.
_BLOCK_CHANNELS = 16
_MAX_PROTOBUF_BYTES = 1_900_000_000


def open_observing_session(model: onnx.ModelProto, fetched: Sequence[str]) -> ort.InferenceSession:
    """Return a session of model (changed on the way) whose outputs are the fetched tensors, values bit-equal.

    Convolutions work on NCHWc blocks. A fetched tensor would cost a ReorderOutput each; its values are all that is
    counted, so the blocked tensor is fetched instead, where its channels fill the blocks. Shapes of outputs are
    therefore only good for their number of elements and their batch axis. Raises CalibrationProblem.
    """
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetched)
    with tempfile.TemporaryDirectory(prefix="enginesmith-observe-") as folder:
        plain, optimized = Path(folder, "model.onnx"), Path(folder, "optimized.onnx")
        save_model(model, plain)
        try:
            return _open_optimized(plain, optimized)
        except RUNTIME_ERRORS as error:
            raise CalibrationProblem(reason=f"onnxruntime cannot load the model: {error}") from None


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, its weights beside it where the file would be too large."""
    large = model.ByteSize() > _MAX_PROTOBUF_BYTES
    onnx.save_model(model, path, save_as_external_data=large, location="model.bin")


def _open_optimized(plain: Path, optimized: Path) -> ort.InferenceSession:
    # Weights go to a file beside, so that the rewritten graph is small and they are never held three times.
    options = make_options()
    options.optimized_model_filepath = str(optimized)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    del session
    graph = onnx.load(optimized, load_external_data=False)
    _drop_reorders(graph, set(names))
    onnx.save_model(graph, optimized)
    options = make_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(optimized), options, providers=["CPUExecutionProvider"])


def make_options() -> ort.SessionOptions:
    """Return options for one thread that says nothing but errors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Denormals stay as they are: the same numbers as TensorRT's and on every thread.
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    return options


def _drop_reorders(model: onnx.ModelProto, fetched: set[str]) -> None:
    read = {name for node in model.graph.node for name in node.input}
    blocked: dict[str, str] = {}
    for node in list(model.graph.node):
        ours = node.op_type == "ReorderOutput" and node.output[0] in fetched - read and _fills_blocks(node)
        if ours and node.input[0] not in blocked:
            blocked[node.input[0]] = node.output[0]
            model.graph.node.remove(node)
    # The blocked tensor takes the name of the output, so that outputs keep names and order.
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [blocked.get(name, name) for name in names]
    kept = [value for value in model.graph.value_info if value.name not in blocked]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    for output in model.graph.output:
        if output.name in blocked.values():
            output.type.tensor_type.ClearField("shape")


def _fills_blocks(node: onnx.NodeProto) -> bool:
    channels = next((attribute.i for attribute in node.attribute if attribute.name == "channels"), 0)
    return channels > 0 and channels % _BLOCK_CHANNELS == 0
