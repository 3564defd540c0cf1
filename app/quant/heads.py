"""Classification heads as 1x1 convolutions: the last Gemm, behind a picture that was pooled to one position, computes the same.

TensorRT's convolutions read INT8 straight from the pooling before them. A Gemm it hands to another compiler, behind the
pooling in fp16 and a kernel that quantizes: two or three more kernels of the few that a small net has.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from app.quant.nodes import Index, Namer, get_attribute, get_int, index_graph, op_of, replace_nodes
from app.quant.simplify import remove_unused
from app.quant.tensor_types import TensorType, infer_types

_FLATTENING = frozenset({"Flatten", "Reshape", "Squeeze"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
#: What stands behind the last layer. Further layers are products again, in whose compiler TensorRT keeps what lies between.
_DECISIONS = frozenset({"ArgMax", "LogSoftmax", "Shape", "Sigmoid", "Softmax", "TopK"})


@dataclass(frozen=True)
class _Head:
    """A product of `pooled`, [N, channels, 1, 1], with weights [classes, channels], and a bias [classes] or none.

    `arrays`: what the Conv reads beside it, by the names in the model. `last`: the node that writes what the head gives, the
    product or the Add behind it.
    """

    pooled: str
    arrays: dict[str, np.ndarray]
    last: onnx.NodeProto


def convolve_heads(model: onnx.ModelProto) -> None:
    """Make a Conv and a Flatten of every Gemm or MatMul that alone reads a flattened [N, channels, 1, 1], in place.

    Nothing but a Softmax or the like comes behind it. Its weights are constant; so is its bias, of the Gemm or in an Add
    behind the MatMul. The Conv has the node's name and writes a tensor of its own; the Flatten writes what the Gemm or Add
    wrote.
    """
    graph = model.graph
    index, types, namer = index_graph(graph), infer_types(model), Namer(graph)
    heads = {node.output[0]: head for node in graph.node if (head := _find_head(node, index, types)) is not None}
    if not heads:
        return
    gone = {head.last.output[0] for head in heads.values()}
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in heads:
            written += _convolved(graph, node, heads[node.output[0]], namer)
        elif node.output[0] not in gone:
            written.append(node)
    replace_nodes(graph, written)
    remove_unused(graph)


def _find_head(node: onnx.NodeProto, index: Index, types: dict[str, TensorType]) -> _Head | None:
    flatten = index.producers.get(node.input[0]) if op_of(node) in _PRODUCTS else None
    if flatten is None or op_of(flatten) not in _FLATTENING or index.only_reader(node.input[0]) is not node:
        return None
    weights = _weights(node, index)
    if weights is None or not _is_flattened(flatten, weights.shape[1], types):
        return None
    arrays, last = {node.input[1]: weights[:, :, None, None]}, node
    bias = node.input[2] if len(node.input) > 2 else ""
    if node.op_type == "MatMul" and (added := _added(node, index)) is not None:
        last, bias = added
    if bias:
        value = _bias(index.array(bias), len(weights))
        if value is None:
            return None
        arrays[bias] = value
    return _Head(flatten.input[0], arrays, last) if _is_last(last.output[0], index) else None


def _is_last(result: str, index: Index) -> bool:
    readers = index.consumers.get(result, [])
    return all(op_of(r) in _DECISIONS or (op_of(r) in _FLATTENING and _is_last(r.output[0], index)) for r in readers)


def _added(product: onnx.NodeProto, index: Index) -> tuple[onnx.NodeProto, str] | None:
    """Return the Add of a constant row that alone reads a MatMul, and the row's name."""
    reader = index.only_reader(product.output[0])
    if reader is None or op_of(reader) != "Add":
        return None
    other = reader.input[1] if reader.input[0] == product.output[0] else reader.input[0]
    row = index.array(other)
    return (reader, other) if row is not None and row.ndim == 1 else None


def _bias(value: np.ndarray | None, classes: int) -> np.ndarray | None:
    """Return a constant bias as one number a class; None where rows of the batch differ in it."""
    is_row = value is not None and value.size in (1, classes) and value.shape[-1:] in ((), (value.size,))
    return np.array(np.broadcast_to(value.reshape(-1), classes)) if value is not None and is_row else None


def _weights(node: onnx.NodeProto, index: Index) -> np.ndarray | None:
    weights = index.array(node.input[1])
    if weights is None or weights.dtype != np.float32 or weights.ndim != 2:
        return None
    is_scaled = any(get_attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta"))
    if is_scaled or get_int(node, "transA", 0):
        return None
    return weights if get_int(node, "transB", 0) else np.ascontiguousarray(weights.T)


def _is_flattened(flatten: onnx.NodeProto, channels: int, types: dict[str, TensorType]) -> bool:
    # A product with [channels, classes] reads rows of so many values, of which each picture has as many: one row each.
    before = types.get(flatten.input[0])
    if before is None or before.shape is None or before.element != onnx.TensorProto.FLOAT:
        return False
    return before.shape[1:] == (channels, 1, 1) and _makes_rows(flatten, types)


def _makes_rows(flatten: onnx.NodeProto, types: dict[str, TensorType]) -> bool:
    target = types.get(flatten.input[1]) if op_of(flatten) == "Reshape" else None
    after = types.get(flatten.output[0])
    is_known = after is not None and after.shape is not None and len(after.shape) == 2
    return is_known or (target is not None and target.shape == (2,))


def _convolved(graph: onnx.GraphProto, node: onnx.NodeProto, head: _Head, namer: Namer) -> list[onnx.NodeProto]:
    names = [namer.name(f"{name}_convolution") for name in head.arrays]
    arrays = zip(names, head.arrays.values(), strict=True)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays)
    result = head.last.output[0]
    output = namer.name(f"{result}_convolution")
    conv = helper.make_node("Conv", [head.pooled, *names], [output], name=node.name or node.output[0], kernel_shape=[1, 1])
    return [conv, helper.make_node("Flatten", [output], [result], name=namer.name(f"{result}_Flatten"), axis=1)]
