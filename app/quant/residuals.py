"""Residual Adds, and which of their two inputs is the shortcut."""

from collections.abc import Collection, Iterator

import onnx

from app.quant.nodes import op_of
from app.quant.plan import Scene


def find_shortcuts(scene: Scene) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield every Add of two tensors of one shape of which a Conv alone writes one, with the other one's position.

    Runtimes let the convolution add the shortcut before it writes; for that the shortcut is INT8 and the branch has no
    Q/DQ pair. Where both are written so, the shortcut is the one with fewer nodes before it.
    """
    depths = _depths(scene)
    for node in scene.nodes:
        if node.op_type != "Add" or not all(scene.is_activation(name) for name in node.input):
            continue
        if node.input[0] == node.input[1] or not _is_same_shape(node, scene):
            continue
        branches = [position for position in (0, 1) if is_written_for_one(node.input[position], scene, {"Conv"})]
        if len(branches) == 1:
            yield node, 1 - branches[0]
        elif branches:
            yield node, 0 if depths[node.input[0]] < depths[node.input[1]] else 1


def is_written_for_one(name: str, scene: Scene, ops: Collection[str]) -> bool:
    """Return whether a node of one of these kinds writes name for one reader alone."""
    maker = scene.index.producers.get(name)
    return maker is not None and op_of(maker) in ops and scene.index.only_reader(name) is not None


def _depths(scene: Scene) -> dict[str, int]:
    depths: dict[str, int] = {}
    for node in scene.nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    return depths


def _is_same_shape(node: onnx.NodeProto, scene: Scene) -> bool:
    left, right = scene.shape(node.input[0]), scene.shape(node.input[1])
    if left is None or right is None:
        return True
    return len(left) == len(right) and all(a is None or b is None or a == b for a, b in zip(left, right, strict=True))
