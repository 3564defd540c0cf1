"""Squeeze-and-excitation: the nodes that make one factor a channel from a pooled picture."""

from collections.abc import Iterator

import onnx

from app.quant.nodes import op_of
from app.quant.plan import WEIGHTED_OPS, Scene
from app.quant.tensor_types import Shape

_POOLING = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"})
_PASSING = frozenset(
    """
    Add Clip Concat Div Elu Flatten Gelu HardSigmoid HardSwish LeakyRelu Mul PRelu Relu Reshape Sigmoid Squeeze Sub Tanh
    Transpose Unsqueeze
    """.split()
)


def find_gates(scene: Scene) -> set[str]:
    """Return the first outputs of the nodes with weights between a pooling of the whole picture and a Mul with it.

    They see one position a picture, so they wait for memory; in INT8 they cost accuracy and save no time.
    """
    gates: set[str] = set()
    for node in scene.nodes:
        if node.op_type == "Mul" and all(scene.is_activation(name) for name in node.input):
            for gate in _spread_operands(node, scene):
                gates |= _walk_back(gate, scene)
    return gates


def _spread_operands(node: onnx.NodeProto, scene: Scene) -> Iterator[str]:
    left, right = (scene.shape(name) for name in node.input)
    if left is None or right is None or len(left) != len(right) or len(left) < 3:
        return
    for name, shape, other in ((node.input[0], left, right), (node.input[1], right, left)):
        if any(size == 1 != wide for size, wide in zip(shape, other, strict=True)):
            yield name


def _walk_back(gate: str, scene: Scene) -> set[str]:
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [gate]
    while waiting:
        name = waiting.pop()
        if name in seen or not scene.is_activation(name):
            continue
        seen.add(name)
        maker = scene.index.producers.get(name)
        if maker is None or not (_sees_one_position(maker, scene) or op_of(maker) in _PASSING | _POOLING):
            return set()
        if op_of(maker) in _POOLING:
            continue
        if maker.op_type in WEIGHTED_OPS:
            found.add(maker.output[0])
        waiting.extend(maker.input)
    return found


def _sees_one_position(node: onnx.NodeProto, scene: Scene) -> bool:
    if op_of(node) in ("Gemm", "MatMul"):
        return True
    shape: Shape | None = scene.shape(node.input[0])
    return op_of(node) == "Conv" and shape is not None and all(size == 1 for size in shape[2:])
