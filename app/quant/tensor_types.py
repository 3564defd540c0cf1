"""Element types and shapes of every tensor, by ONNX shape inference on a graph without its weights."""

from dataclasses import dataclass

import onnx

from app.errors import ModelInvalidGraph

_LARGEST_KEPT_ELEMENTS = 1024
#: ONNX infers nothing of its output, which is like its first input.
_LIKE_INPUT = "GroupNormalization"

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class TensorType:
    """An element type (`onnx.TensorProto.DataType`) and a shape; None for a dimension, or a shape, not known."""

    element: int
    shape: Shape | None

    @property
    def is_static(self) -> bool:
        return self.shape is not None and None not in self.shape


def infer_types(
    model: onnx.ModelProto, with_declared_outputs: bool = True, assumed_size: int | None = None
) -> dict[str, TensorType]:
    """Return the type of each tensor of the main graph that inference can tell, initializers included.

    Weights are left out of what is inferred on, so a model of 2 GiB costs no more than a small one. What the model
    declares of its outputs counts, unless it is not to. With `assumed_size`, sizes of inputs that are not known are
    taken for it, the first one for 1. Raises ModelInvalidGraph where types contradict each other.
    """
    skeleton = _skeleton(model)
    if not with_declared_outputs or assumed_size is not None:
        for value in skeleton.graph.output:
            value.type.tensor_type.ClearField("shape")
    if assumed_size is not None:
        _assume_sizes(skeleton.graph, assumed_size)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ModelInvalidGraph(reason=str(error)) from error
    graph = inferred.graph
    types = {value.name: _type(value) for value in [*graph.value_info, *graph.input, *graph.output]}
    for tensor in model.graph.initializer:
        types[tensor.name] = TensorType(tensor.data_type, tuple(tensor.dims))
    return types


def _type(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    return TensorType(tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim))


def _assume_sizes(graph: onnx.GraphProto, assumed_size: int) -> None:
    for value in graph.input:
        for position, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                dimension.dim_value = assumed_size if position else 1


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    heavy = {tensor.name for tensor in graph.initializer if _elements(tensor) > _LARGEST_KEPT_ELEMENTS}
    inputs = [value for value in graph.input if value.name not in heavy]
    inputs += [
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
        if tensor.name in heavy
    ]
    light = [tensor for tensor in graph.initializer if tensor.name not in heavy]
    nodes = [_inferable(node) for node in graph.node]
    bare = onnx.helper.make_graph(nodes, graph.name or "graph", inputs, graph.output, light)
    return onnx.helper.make_model(
        bare, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )


def _inferable(node: onnx.NodeProto) -> onnx.NodeProto:
    if node.op_type != _LIKE_INPUT or node.domain not in ("", "ai.onnx"):
        return node
    return onnx.helper.make_node("Identity", node.input[:1], node.output)


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
