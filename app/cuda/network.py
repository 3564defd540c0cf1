"""From an ONNX file to TensorRT's network: parse, find tensors, mark what shall come out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from app.cuda.runtime import TensorRt

_ERRORS_SHOWN = 6


@dataclass(frozen=True)
class Network:
    """A parsed model. The builder makes it, and the parser owns its weights: both live as long as it does."""

    tensorrt: TensorRt
    builder: Any
    parser: Any
    definition: Any

    @property
    def inputs(self) -> list[Any]:
        return [self.definition.get_input(position) for position in range(self.definition.num_inputs)]

    @property
    def outputs(self) -> list[Any]:
        return [self.definition.get_output(position) for position in range(self.definition.num_outputs)]

    @property
    def layers(self) -> Iterator[Any]:
        for position in range(self.definition.num_layers):
            yield self.definition.get_layer(position)

    def tensors(self) -> dict[str, Any]:
        """Return every ITensor by its name: inputs, and what layers make."""
        made = (layer.get_output(position) for layer in self.layers for position in range(layer.num_outputs))
        return {tensor.name: tensor for tensor in (*self.inputs, *made) if tensor is not None}


def parse_network(tensorrt: TensorRt, model: Path, is_typed: bool) -> Network:
    """Parse an ONNX file, with its external data beside it; a typed network computes in the types that the model has.

    Within `open_device`: without a GPU TensorRT's builder ends the process. Raises EngineProblem with the parser's words
    and the node that it means.
    """
    builder = _open_builder(tensorrt)
    definition = builder.create_network(_flags(tensorrt.module, is_typed))
    parser = tensorrt.module.OnnxParser(definition, tensorrt.log)
    if not _parse(parser, model):
        raise tensorrt.problem("; ".join(_parser_errors(parser)))
    return Network(tensorrt, builder, parser, definition)


def mark_outputs(network: Network, names: Iterable[str]) -> None:
    """Let these tensors come out as well. Raises EngineProblem for a name that the network does not have."""
    tensors = network.tensors()
    marked = {tensor.name for tensor in network.outputs}
    for name in names:
        if name not in tensors:
            raise network.tensorrt.problem(f"it has no tensor {name} after parsing")
        if name not in marked and not tensors[name].is_network_input:
            network.definition.mark_output(tensors[name])


def _parse(parser: Any, path: Path) -> bool:
    # TensorRT takes dimensions of one name for equal; exporters name all that they do not know alike, such as "?".
    model = onnx.load(path, load_external_data=False)
    alike = [value for value in model.graph.input if _has_repeated_names(value)]
    for value in alike:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                size.dim_param = f"{value.name}_{axis}"
    if alike:
        return parser.parse(model.SerializeToString(), str(path))
    del model, alike  # TensorRT has a copy of its own
    return parser.parse_from_file(str(path))


def _has_repeated_names(value: onnx.ValueInfoProto) -> bool:
    names = [size.dim_param for size in value.type.tensor_type.shape.dim if size.dim_param]
    return len(set(names)) < len(names)


def _open_builder(tensorrt: TensorRt) -> Any:
    try:
        return tensorrt.module.Builder(tensorrt.log)
    except TypeError as error:  # "pybind11::init(): factory function returned nullptr": no library for this GPU
        raise tensorrt.failure() from error


def _flags(module: Any, is_typed: bool) -> int:
    # A version without the flag has typed networks alone.
    flag = module.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 1 << int(flag) if is_typed and flag is not None else 0


def _parser_errors(parser: Any) -> list[str]:
    errors = [parser.get_error(position) for position in range(parser.num_errors)]
    return [f"node {error.node_name()} ({error.node_operator()}): {error.desc()}" for error in errors[:_ERRORS_SHOWN]]
