"""What the uploaded model calls what is in the prepared one: reports and `exclude` speak its names, under every placement."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import onnx

from app.quant.nodes import Index, index_graph
from app.quant.plan import WEIGHTED_OPS

#: What preparing folds into the node with weights before it, or drops behind it: what stands between that node's own output
#: and the tensor that it writes in the end.
_ABSORBED = frozenset("Add BatchNormalization Div Dropout Flatten Identity Mul Reshape Squeeze Sub Transpose".split())
#: What preparing writes behind a node whose output it renamed.
_MOVING = frozenset({"Flatten", "Transpose"})
#: What other operators a node was before: see `heads.convolve_heads` and `simplify.unify_sums`.
_WAS = {"Conv": ("Conv", "Gemm", "MatMul"), "Add": ("Add", "Sum")}

#: So many nodes are looked at on the way; what a model computes of constants may be a graph of any size.
_FARTHEST = 64

Origins = Mapping[str, onnx.NodeProto]


def find_origins(original: onnx.GraphProto, prepared: onnx.GraphProto) -> Origins:
    """Return, by the first output of each node of a prepared graph, the node of the original that it was.

    Nodes that came to be are missing.
    """
    names = Counter(node.name for node in original.node)
    named = {node.name: node for node in original.node if node.name and names[node.name] == 1}
    given, index = index_graph(original), index_graph(prepared)
    found = ((node, _find_origin(node, named, given, index)) for node in prepared.node)
    return {node.output[0]: origin for node, origin in found if origin is not None}


def given_tensors(original: onnx.GraphProto, prepared: onnx.GraphProto) -> dict[str, str]:
    """Return, by their names in the prepared graph, what the original calls outputs of nodes and weights with other names."""
    origins = find_origins(original, prepared)
    known = {name for node in original.node for name in (*node.input, *node.output)}
    names: dict[str, str] = {}
    for node in prepared.node:
        origin = origins.get(node.output[0])
        if origin is None:
            continue
        pairs = [(node.output[0], origin.output[0])]
        pairs += zip(node.input, origin.input, strict=False) if node.op_type in WEIGHTED_OPS else []
        names |= {name: given for name, given in pairs if name not in known}
    return names


def tell_given(report: dict[str, Any], given: Mapping[str, str]) -> None:
    """Write the names of `given_tensors` into a quantizer's report, in place."""
    tuned = report.get("tuned", {}).get("left", [])
    for row in (*report["quantized"], *report["kept_float"], *report["channels"], *tuned):
        row["node"] = given.get(row["node"], row["node"])
    for row in report["channels"]:
        row["weight"] = given.get(row["weight"], row["weight"])


def _find_origin(
    node: onnx.NodeProto, named: Mapping[str, onnx.NodeProto], given: Index, index: Index
) -> onnx.NodeProto | None:
    kinds = _WAS.get(node.op_type, (node.op_type,))
    by_name = named.get(node.name)
    if by_name is not None and by_name.op_type in kinds:
        return by_name
    maker = given.producers.get(_known_output(node, given, index))
    return _behind(maker, kinds, given) if maker is not None else None


def _known_output(node: onnx.NodeProto, given: Index, index: Index) -> str:
    name = node.output[0]
    reader = index.only_reader(name)
    is_renamed = name not in given.producers and reader is not None and reader.op_type in _MOVING
    return reader.output[0] if is_renamed and reader is not None else name


def _behind(maker: onnx.NodeProto, kinds: tuple[str, ...], given: Index) -> onnx.NodeProto | None:
    """Return the nearest node of these kinds from maker on upwards, through what preparing absorbs."""
    waiting, seen = deque([maker]), {maker.output[0]}
    while waiting and len(seen) <= _FARTHEST:
        node = waiting.popleft()
        if node.op_type in kinds:
            return node
        if node.op_type not in _ABSORBED:
            continue
        for name in node.input:
            if name in given.producers and (before := given.producers[name]).output[0] not in seen:
                seen.add(before.output[0])
                waiting.append(before)
    return None
