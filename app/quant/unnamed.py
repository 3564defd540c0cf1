"""Layers without a name in a cache, `(Unnamed Layer* N) [Kind]_output`: whose output is it? Only what is certain counts.

N counts the layers in the order in which the network was built. A network built without the ONNX parser (Caffe, UFF,
TensorRT's API) names few tensors; its cache then lists the outputs of all layers in that order. Where it lists just as
many as the model has nodes that make such layers, a node with k of them before it and m behind it stands at a place from
k on and m before the end, at a layer of its kind. A layer that fits one node alone, after striking out what is settled,
is that node's.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx

_NAME = re.compile(r"\(Unnamed Layer\* ([0-9]{1,9})\) \[([A-Za-z ]{1,40})\]_output")
#: Layer kinds as TensorRT prints them, without blanks and in lower case, and the operators that make them.
_MAKERS = {
    "activation": "Clip Elu HardSigmoid LeakyRelu Relu Selu Sigmoid Softplus Softsign Tanh ThresholdedRelu",
    "concatenation": "Concat",
    "convolution": "Conv",
    "deconvolution": "ConvTranspose",
    "elementwise": "Add Div Max Min Mul Pow Sub",
    "fullyconnected": "Gemm",
    "lrn": "LRN",
    "matrixmultiply": "MatMul",
    "padding": "Pad",
    "pooling": "AveragePool GlobalAveragePool GlobalMaxPool MaxPool",
    "reduce": "GlobalAveragePool ReduceMax ReduceMean ReduceMin ReduceSum",
    "resize": "Resize Upsample",
    "scale": "BatchNormalization",
    "shuffle": "Flatten Reshape Squeeze Transpose Unsqueeze",
    "slice": "Slice",
    "softmax": "Softmax",
    "unary": "Abs Ceil Erf Exp Floor Log Neg Reciprocal Sqrt",
}
_OPS = {kind: frozenset(ops.split()) for kind, ops in _MAKERS.items()}
_KNOWN_OPS = frozenset().union(*_OPS.values())
#: Networks built by hand often do without these; the values are those before them.
_KEEPING_KIND = "shuffle"
_MOST_LAYERS = 4000


@dataclass(frozen=True)
class _Layer:
    name: str
    number: int
    kind: str


def map_unnamed(model: onnx.ModelProto, listed: Collection[str], activations: Collection[str]) -> dict[str, str]:
    """Return {name in the cache: tensor of the model} for the unnamed layers whose node is certain.

    Nothing is where the cache names activations inside the model: then the ONNX parser has built the network, every
    tensor of the model has its own name, and unnamed layers are its internal ones.
    """
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    layers = sorted(_layers(listed), key=lambda layer: layer.number)
    if not layers or (set(listed) & set(activations)) - ends:
        return {}
    nodes = _candidates(model.graph, listed, activations, layers)
    if len(nodes) != len(layers) or len(nodes) > _MOST_LAYERS or any(layer.kind not in _OPS for layer in layers):
        return {}
    return {layers[place].name: node.output[0] for place, node in _settle(layers, nodes, model.graph)}


def _layers(listed: Iterable[str]) -> list[_Layer]:
    found = [(name, _NAME.fullmatch(name)) for name in listed]
    layers = [_Layer(name, int(match[1]), match[2].replace(" ", "").lower()) for name, match in found if match]
    return [layer for layer in layers if layer.kind != "constant"]


def _candidates(
    graph: onnx.GraphProto, listed: Collection[str], activations: Collection[str], layers: Sequence[_Layer]
) -> list[onnx.NodeProto]:
    ops = _KNOWN_OPS
    if not any(layer.kind == _KEEPING_KIND for layer in layers):
        ops = ops - _OPS[_KEEPING_KIND]
    computed = set(activations) - set(listed)
    return [node for node in graph.node if node.op_type in ops and node.domain == "" and node.output[0] in computed]


def _settle(
    layers: Sequence[_Layer], nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto
) -> list[tuple[int, onnx.NodeProto]]:
    before, behind = _count_kin(nodes, graph)
    last = len(nodes) - 1
    fits = [
        {i for i, node in enumerate(nodes) if before[i] <= place <= last - behind[i] and node.op_type in _OPS[layer.kind]}
        for place, layer in enumerate(layers)
    ]
    settled: dict[int, int] = {}
    while True:
        found = {place: next(iter(fit)) for place, fit in enumerate(fits) if len(fit) == 1}
        if len(set(found.values())) < len(found):
            return []  # two layers for one node: this is another network
        if not found.keys() - settled.keys():
            break
        settled |= found
        for place, fit in enumerate(fits):
            if place not in settled:
                fit.difference_update(settled.values())
    return [] if any(not fit for fit in fits) else [(place, nodes[i]) for place, i in sorted(settled.items())]


def _count_kin(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> tuple[list[int], list[int]]:
    """Return for each candidate how many others must run before it, and how many behind it."""
    numbers = {id(node): number for number, node in enumerate(nodes)}
    ancestors: dict[str, int] = {}  # of each tensor, as a set of bits
    before = [0] * len(nodes)
    behind = [0] * len(nodes)
    for node in graph.node:
        bits = 0
        for name in node.input:
            bits |= ancestors.get(name, 0)
        number = numbers.get(id(node))
        if number is not None:
            before[number] = bits.bit_count()
            for other in _places(bits):
                behind[other] += 1
            bits |= 1 << number
        ancestors.update(dict.fromkeys(node.output, bits))
    return before, behind


def _places(bits: int) -> Iterable[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
