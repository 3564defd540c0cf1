"""Let onnxruntime optimize a graph, then take out what only serves to hand tensors out."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from app.errors import CalibrationProblem
from app.errors.problem import words_of
from app.observers.session import RUNTIME_ERRORS, make_options
from app.quant.nodes import find_captured

#: MLAS blocks 16 channels with AVX-512 and 8 without; whole blocks of 16 have no padding in either.
_BLOCK_CHANNELS = 16
_MAX_PROTOBUF_BYTES = 1_900_000_000
WEIGHTS = "weights.bin"
#: Smaller weights stay in the model: the runtime looks up and maps each one that does not.
_BESIDE_FROM_BYTES = 1 << 16
_BESIDE = "model.bin"


def optimize_model(model: onnx.ModelProto, fetched: Sequence[str], folder: Path) -> onnx.ModelProto:
    """Return the optimized graph of model (which is emptied) whose outputs are the fetched tensors, values bit-equal.

    Its larger weights are in the file WEIGHTS of folder. Convolutions work on NCHWc blocks. A fetched tensor would cost a
    ReorderOutput each; its values are all that is counted, so the blocked tensor is fetched instead, where its channels
    fill the blocks. Shapes of outputs are therefore only good for their number of elements and their batch axis. Raises
    CalibrationProblem.
    """
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetched)
    plain, optimized = folder / "plain.onnx", folder / "optimized.onnx"
    # With its weights in a file that the runtime maps, the model is not held twice; nor does it stay here.
    onnx.save_model(model, plain, save_as_external_data=True, location=_BESIDE)
    model.Clear()
    try:
        graph = _optimized(plain, optimized)
    except RUNTIME_ERRORS as error:
        raise CalibrationProblem(reason=f"onnxruntime cannot load the model: {words_of(error, plain)}") from None
    for path in (plain, optimized, folder / _BESIDE):
        path.unlink(missing_ok=True)
    _drop_reorders(graph, set(fetched))
    return graph


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, its weights beside it where the file would be too large."""
    large = model.ByteSize() > _MAX_PROTOBUF_BYTES
    onnx.save_model(model, path, save_as_external_data=large, location=_BESIDE)


def _optimized(plain: Path, optimized: Path) -> onnx.ModelProto:
    # Larger weights go to a file beside, so that the rewritten graph is small and they are never held three times.
    options = make_options()
    options.optimized_model_filepath = str(optimized)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(_BESIDE_FROM_BYTES))
    options.add_session_config_entry("session.disable_prepacking", "1")
    ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    return onnx.load(optimized, load_external_data=False)


def _drop_reorders(model: onnx.ModelProto, fetched: set[str]) -> None:
    read = {name for node in model.graph.node for name in node.input} | find_captured(model.graph.node)
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
