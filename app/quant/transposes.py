"""Models laid out as NHWC: move Transposes behind what works value by value, where they cancel those before the next Conv."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from app.quant.nodes import Index, Namer, get_attribute, get_int, index_graph, op_of, replace_nodes, set_attribute
from app.quant.simplify import remove_unused

_UNARY = frozenset("Abs Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Mish Neg Relu Sigmoid Softplus Sqrt Tanh".split())
_BINARY = frozenset("Add Div Mul PRelu Sub".split())

Permutation = tuple[int, ...]


@dataclass(frozen=True)
class _Turned:
    """A tensor that is `source` transposed."""

    source: str
    permutation: Permutation


def sink_transposes(graph: onnx.GraphProto) -> None:
    """Move Transposes of equal permutation from the inputs of a node behind it, and drop pairs that cancel, in place.

    Over operators that work value by value, Concat and Pad. A tensor that comes to be takes the name of the one with its
    values that a dropped Transpose made. Nothing changes unless fewer Transposes are left.
    """
    sinking = _Sinking(index_graph(graph), Namer(graph))
    for node in graph.node:
        sinking.add(node)
    nodes = sinking.finished()
    outputs = sinking.index.protected
    if _count_live_transposes(nodes, outputs) < _count_live_transposes(list(graph.node), outputs):
        replace_nodes(graph, nodes)
        graph.initializer.extend(sinking.constants)
        remove_unused(graph)


@dataclass
class _Sinking:
    index: Index
    namer: Namer
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    turned: dict[str, _Turned] = field(default_factory=dict)
    #: Tensors whose makers were dropped -> the ones with their values.
    same: dict[str, str] = field(default_factory=dict)
    #: Tensors that came to be -> the name they take, once they have one.
    names: dict[str, str] = field(default_factory=dict)

    def add(self, original: onnx.NodeProto) -> None:
        """Take the next node of the graph."""
        node = onnx.NodeProto.FromString(original.SerializeToString())
        for position, name in enumerate(node.input):
            node.input[position] = self.same.get(name, name)
        if op_of(node) == "Transpose":
            self._add_transpose(node)
        elif not self._sink(node):
            self.nodes.append(node)

    def finished(self) -> list[onnx.NodeProto]:
        """Return the nodes of the new graph."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    names[position] = self.names.get(name, name)
        return self.nodes

    def _add_transpose(self, node: onnx.NodeProto) -> None:
        source, output, permutation = node.input[0], node.output[0], _permutation(node)
        before = self.turned.get(source)
        if before is not None and _cancel(before.permutation, permutation) and output not in self.index.protected:
            self.same[output] = before.source
            if self.names.get(before.source) == before.source:
                self.names[before.source] = output
            return
        self.nodes.append(node)
        if permutation:
            self.turned[output] = _Turned(source, permutation)

    def _sink(self, node: onnx.NodeProto) -> bool:
        permutations = {self.turned[name].permutation for name in node.input if name in self.turned}
        if len(permutations) != 1 or len(node.output) != 1:
            return False
        permutation = permutations.pop()
        inputs = self._turned_back(node, permutation)
        if inputs is None:
            return False
        output, inner = node.output[0], self.namer.name(f"{node.output[0]}_turned")
        self.names[inner] = inner
        node.input[:] = inputs
        node.output[0] = inner
        name = self.namer.name(f"{output}_Transpose")
        self.nodes += [node, helper.make_node("Transpose", [inner], [output], name=name, perm=permutation)]
        self.turned[output] = _Turned(inner, permutation)
        return True

    def _turned_back(self, node: onnx.NodeProto, permutation: Permutation) -> list[str] | None:
        """Return the inputs of node before the Transposes, None where node cannot work on them."""
        op, first = op_of(node), self.turned.get(node.input[0])
        if op in _UNARY and first is not None:
            return [first.source, *node.input[1:]]
        if op in _BINARY:
            inputs = [self._operand(name, permutation) for name in node.input]
            return None if None in inputs else [name for name in inputs if name is not None]
        if op == "Concat" and all(name in self.turned for name in node.input):
            axis = get_int(node, "axis", 0)
            set_attribute(node, "axis", permutation[axis])
            return [self.turned[name].source for name in node.input]
        if op == "Pad" and first is not None:
            pads = self._pads(node, permutation)
            return None if pads is None else [first.source, pads, *node.input[2:]]
        return None

    def _operand(self, name: str, permutation: Permutation) -> str | None:
        if name in self.turned:
            return self.turned[name].source
        value = self.index.array(name)
        if value is None or value.ndim > len(permutation):
            return None
        if value.size == 1:
            return name
        wide = value.reshape((1,) * (len(permutation) - value.ndim) + value.shape)
        return self._constant(name, wide.transpose(np.argsort(permutation)))

    def _pads(self, node: onnx.NodeProto, permutation: Permutation) -> str | None:
        pads = self.index.array(node.input[1]) if len(node.input) > 1 else None
        if pads is None or pads.size != 2 * len(permutation) or (len(node.input) > 3 and node.input[3]):
            return None
        return self._constant(node.input[1], pads.reshape(2, -1)[:, np.argsort(permutation)].ravel())

    def _constant(self, wish: str, value: np.ndarray) -> str:
        name = self.namer.name(f"{wish}_turned")
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _permutation(node: onnx.NodeProto) -> Permutation:
    value = get_attribute(node, "perm")
    return tuple(value) if isinstance(value, list) else ()


def _cancel(first: Permutation, second: Permutation) -> bool:
    return len(first) == len(second) > 0 and all(first[axis] == place for place, axis in enumerate(second))


def _count_live_transposes(nodes: Sequence[onnx.NodeProto], outputs: frozenset[str]) -> int:
    needed, count = set(outputs), 0
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            count += op_of(node) == "Transpose"
    return count
