"""The tensors inside nodes that TensorRT makes several layers of: it calibrates them, and an ONNX file has no name for them.

A Gemm named `g` with a bias is the product `g_output` and a sum that has the ONNX name; a HardSwish `h` is the sigmoid
`h_output` and a product. These two can be observed: a node that computes them is put beside the node. A Softmax `s` is a
matrix's, `s_output`, given its shape; it, DepthToSpace and SpaceToDepth have the values of their output inside.
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from app.quant.nodes import get_attribute, index_graph, op_of, set_attribute, taken_names
from app.quant.opset import get_opset

#: Operators that become several layers, of which the last one has the name of the output.
_SEVERAL_LAYERS = frozenset({"DepthToSpace", "HardSwish", "Softmax", "SpaceToDepth"})
#: HardSwish(x) = x max(0, min(1, x / 6 + 1 / 2)).
_SLOPE, _OFFSET = 1 / 6, 0.5
#: From this opset on a Gemm may have no bias.
_BIAS_IS_OPTIONAL = 11


def find_inner(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the tensors inside nodes that TensorRT makes several layers of, but for those of moves and loops."""
    return [name for name, _ in _inner(graph)]


def inner_bounds(graph: onnx.GraphProto, amax: Mapping[str, float]) -> dict[str, float]:
    """Return bounds of the tensors inside nodes, see `find_inner`, as far as amax of the nodes' outputs tells them.

    Of a product of a Gemm: |x w| <= |output| + |bias|, where the bias is constant. The sigmoid inside a HardSwish is never
    above 1; what is inside the others has the values of their output.
    """
    index, found = index_graph(graph), dict[str, float]()
    for name, node in _inner(graph):
        bias = index.array(node.input[2]) if op_of(node) == "Gemm" else np.zeros(1)
        if op_of(node) == "HardSwish":
            found[name] = 1.0
        elif bias is not None and node.output[0] in amax:
            found[name] = amax[node.output[0]] + float(np.abs(bias).max(initial=0.0))
    return found


def find_observable_inner(model: onnx.ModelProto, activations: Collection[str]) -> list[str]:
    """Return the names of the tensors inside nodes that `append_inner` can compute, in graph order.

    They are inside nodes with one of these activations as output, and no tensor of the model has such a name.
    """
    taken = taken_names(model.graph)
    nodes = {name: node for name, node in _inner(model.graph) if name not in taken}
    return [name for name, node in nodes.items() if node.output[0] in activations and _computing(name, node, 0) is not None]


def append_inner(model: onnx.ModelProto, tensors: Collection[str]) -> None:
    """Add to model, in place, what computes those of the tensors that are inside its nodes."""
    taken, opset = taken_names(model.graph), get_opset(model)
    for name, node in list(_inner(model.graph)):
        computing = _computing(name, node, opset) if name in tensors and name not in taken else None
        if computing is not None:
            model.graph.node.append(computing)


def _computing(name: str, node: onnx.NodeProto, opset: int) -> onnx.NodeProto | None:
    if op_of(node) == "HardSwish":
        return helper.make_node("HardSigmoid", [node.input[0]], [name], name=name, alpha=_SLOPE, beta=_OFFSET)
    if op_of(node) == "Gemm" and get_attribute(node, "alpha", 1.0) == 1.0:
        return _product(name, node, opset)
    return None


def _product(name: str, gemm: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    product = onnx.NodeProto()
    product.CopyFrom(gemm)
    product.name, product.output[0] = name, name
    if opset < _BIAS_IS_OPTIONAL:
        set_attribute(product, "beta", 0.0)
    else:
        del product.input[2]
    return product


def _inner(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    for node in graph.node:
        has_bias = op_of(node) == "Gemm" and len(node.input) > 2 and bool(node.input[2])
        if node.name and (has_bias or op_of(node) in _SEVERAL_LAYERS):
            yield f"{node.name}_output", node
