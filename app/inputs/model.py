"""An uploaded model is inspected before it is stored. Runs in a throw-away child, without ONNX Runtime."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import rfc8785
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from app.errors import ModelInvalidGraph, ModelProblem, ModelTooComplex, ModelTooLarge
from app.errors.problem import printable
from app.inputs.graph import GraphFacts, check_graph, count_text
from app.inputs.initializers import check_initializers
from app.inputs.limits import InputLimits
from app.inputs.model_files import MODEL_FILE, open_upload
from app.inputs.operators import check_versions, get_opset
from app.inputs.shapes import infer_output_shapes

#: protobuf's own limit of one message.
PROTOBUF_BYTES = (1 << 31) - 1
_HASH_BYTES = 1 << 20
#: What Paddle's exporter writes for a size that is not known; runtimes take it so.
_UNKNOWN_SIZE = -1


@dataclass(frozen=True)
class _Content:
    name: str
    path: Path
    sha256: str
    size: int


def inspect_model(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check an uploaded model and return what is known of it.

    request: {"path": the upload, "folder": where a model from an archive is written, "limits": InputLimits as JSON}.
    Returns {"files": [{"name", "path", "sha256", "size"}], "digest", "inputs": [{"name", "dtype", "shape"}], "outputs",
    "opset", "ir_version", "producer", "nodes", "operators": {op: count}, "parameters"}. The first file is the ONNX
    file, "model.onnx"; the others lie beside it under the names by which it knows them. In a shape, an int is
    static, a string symbolic, null unknown; a shape that is null has unknown rank.
    Raises ModelProblem's classes, and ArchiveProblem's for a damaged archive.
    """
    limits = InputLimits.model_validate(request["limits"])
    upload = open_upload(Path(request["path"]), Path(request["folder"]), limits)
    model = parse_model(upload.model_path)
    report({"log": "parsed"})
    data_files = upload.take_data_files(model)
    facts, parameters = _check(model, data_files, limits)
    report({"log": f"{facts.nodes} nodes and {parameters} parameters checked"})
    known = _describe_model(model, limits)
    files = [_hash_file(MODEL_FILE, upload.model_path), *(_hash_file(*file) for file in sorted(data_files.items()))]
    return {
        "files": [{"name": f.name, "path": str(f.path), "sha256": f.sha256, "size": f.size} for f in files],
        "digest": _digest_from(files),
        **known,
        "nodes": facts.nodes,
        "operators": dict(sorted(facts.operators.items())),
        "parameters": parameters,
    }


def _describe_model(model: ModelProto, limits: InputLimits) -> dict[str, Any]:
    known = {
        "inputs": [_describe(value) for value in _real_inputs(model)],
        "opset": get_opset(model),
        "ir_version": model.ir_version,
        "producer": printable(" ".join(_text(text) for text in (model.producer_name, model.producer_version) if text)),
    }
    outputs = [_describe(value) for value in model.graph.output]
    inferred = infer_output_shapes(model, limits)  # the model is used up from here on
    for output in outputs:
        if output["shape"] is None:
            output["shape"] = _describe(inferred[output["name"]])["shape"]
    return known | {"outputs": outputs}


def parse_model(path: Path) -> ModelProto:
    """Return the ONNX file as it is, without external data. Raises ModelTooLarge and ModelProblem."""
    size = path.stat().st_size
    if size > PROTOBUF_BYTES:
        raise ModelTooLarge()
    if not size:
        raise ModelProblem(reason="it is empty")
    try:
        model = ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ModelProblem(reason="its bytes are no protobuf message; it is cut off, damaged or another file") from error
    if not model.ir_version or not model.HasField("graph") or not model.opset_import:
        raise ModelProblem(reason="it has no graph, no opset or no IR version")
    return model


def _check(model: ModelProto, data_files: dict[str, Path], limits: InputLimits) -> tuple[GraphFacts, int]:
    if count_text(model) > limits.model_text_characters:
        raise ModelTooComplex(reason=f"its texts are longer than {limits.model_text_characters} characters")
    check_versions(model)
    facts = check_graph(model, limits)
    parameters = check_initializers(facts, data_files, limits)
    for value in (*model.graph.input, *model.graph.output):
        _check_value(value)
    if not model.graph.output:
        raise ModelInvalidGraph(reason="it has no output")
    return facts, parameters


def _check_value(value: ValueInfoProto) -> None:
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelInvalidGraph(reason=f"{value.name} is not a tensor")
    tensor = value.type.tensor_type
    if tensor.elem_type not in TensorProto.DataType.values() or not tensor.elem_type:
        raise ModelInvalidGraph(reason=f"{value.name} has no known type")
    for dimension in tensor.shape.dim:
        # protobuf hands text out as bytes where it is no UTF-8.
        if isinstance(dimension.dim_param, bytes):
            raise ModelInvalidGraph(reason=f"{value.name} has a dimension whose name is not UTF-8")
        if dimension.HasField("dim_value") and dimension.dim_value < _UNKNOWN_SIZE:
            raise ModelInvalidGraph(reason=f"{value.name} has the dimension {dimension.dim_value}; name it instead")


def _real_inputs(model: ModelProto) -> Iterator[ValueInfoProto]:
    # Before IR version 4 every initializer was an input too.
    constants = {tensor.name for tensor in model.graph.initializer}
    return (value for value in model.graph.input if value.name not in constants)


def _describe(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [_dimension(dimension) for dimension in tensor.shape.dim] if tensor.HasField("shape") else None
    dtype = TensorProto.DataType.Name(tensor.elem_type)
    return {"name": value.name, "dtype": _DTYPES.get(dtype, dtype.lower()), "shape": shape}


_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dimension.HasField("dim_value"):
        return dimension.dim_value if dimension.dim_value > 0 else None
    # Paddle's exporter calls every unknown size `?`: no name, or height and width would be held to be equal.
    is_name = any(letter.isalnum() for letter in dimension.dim_param)
    return str(dimension.dim_param)[:100] if is_name else None


def _text(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _hash_file(name: str, path: Path) -> _Content:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_HASH_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return _Content(name, path, digest.hexdigest(), size)


def _digest_from(files: list[_Content]) -> str:
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256(rfc8785.dumps([list(pair) for pair in sorted((f.name, f.sha256) for f in files)])).hexdigest()
