"""Widen INT8 regions over nodes without weights: pooling, joins, sums, moves of values."""

import onnx

from app.quant.nodes import get_attribute
from app.quant.plan import WEIGHTED_OPS, PlacementPlan, Reads, Scene
from app.quant.residuals import is_written_for_one

#: Ops that move or select values: inputs and output share one scale.
_SAME_SCALE = frozenset(
    """
    Concat DepthToSpace Flatten Gather MaxPool Reshape Resize Slice SpaceToDepth Split Squeeze Transpose Unsqueeze
    """.split()
)
_AVERAGING = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
#: What runtimes apply as the node before it writes its output.
_EPILOGUES = frozenset({"Clip", "LeakyRelu", "Relu"})


def widen_regions(scene: Scene, plan: PlacementPlan) -> None:
    """Add the inputs of nodes without weights whose outputs are quantized: inputs and output are INT8, or none is."""
    # From the last node to the first: a reader's input is in the plan before its producer is looked at.
    for node in reversed(scene.nodes):
        if node.output[0] in plan.reads or node.output[0] in scene.float_nodes:
            continue
        if node.op_type == "Add":
            _widen_over_sum(node, scene, plan)
        elif node.op_type in _SAME_SCALE | _AVERAGING:
            _widen_over(node, scene, plan)


def _widen_over(node: onnx.NodeProto, scene: Scene, plan: PlacementPlan) -> None:
    outputs = [name for name in node.output if name and (name in scene.index.consumers or name in scene.index.protected)]
    positions = tuple(i for i, name in enumerate(node.input) if scene.is_activation(name))
    if not outputs or not positions or not all(name in plan.tensors for name in outputs) or not _keeps_int8(node):
        return
    if node.op_type == "Concat" and len(positions) < len(node.input):
        return
    plan.add(node, Reads(positions))
    if node.op_type in _SAME_SCALE:
        plan.same_scale.extend((node.input[i], output) for i in positions for output in outputs)


def _keeps_int8(node: onnx.NodeProto) -> bool:
    return node.op_type != "Resize" or get_attribute(node, "mode", b"nearest") == b"nearest"


def _widen_over_sum(node: onnx.NodeProto, scene: Scene, plan: PlacementPlan) -> None:
    # What a node with weights writes for this Add alone is added before it is written; see find_shortcuts.
    is_sum = all(scene.is_activation(name) and not is_written_for_one(name, scene, WEIGHTED_OPS) for name in node.input)
    if is_sum and _written(node, scene) in plan.tensors:
        plan.add(node, Reads((0, 1)))


def _written(node: onnx.NodeProto, scene: Scene) -> str:
    reader = scene.index.only_reader(node.output[0])
    return reader.output[0] if reader is not None and reader.op_type in _EPILOGUES else node.output[0]
