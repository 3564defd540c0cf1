"""Decide which tensors get a Q/DQ pair and which nodes read it, by TensorRT's rules.

conservative: the activation inputs of Conv, ConvTranspose, Gemm and MatMul that have constant weights, where they are
    wide enough for INT8 to pay: first layers on a picture of three channels stay float.
default: these, first layers, both inputs of a product of two activations, and the shortcut of a residual Add (never
    the branch that the convolution writes: runtimes fuse that one).
fused: these, and the inputs of pooling, Concat, Add, Resize and of what only moves values, where the output is
    quantized, so that INT8 flows on from one weighted node to the next.

Subgraphs (If, Loop, Scan) and operators of other domains stay as they are; what they read and write is float.
"""

from collections.abc import Mapping

import onnx

from app.errors import UnsupportedOption
from app.quant.plan import WEIGHTED_OPS, PlacementPlan, Reads, Scene, Types, WeightUse, make_scene
from app.quant.regions import widen_regions
from app.quant.residuals import find_shortcuts
from app.quant.weighted import plan_weighted

__all__ = ["PLACEMENTS", "WEIGHTED_OPS", "PlacementPlan", "Reads", "WeightUse", "plan_placement"]

PLACEMENTS = ("conservative", "default", "fused")


def plan_placement(
    model: onnx.ModelProto, types: Types, placement: str, float_nodes: Mapping[str, str] | None = None
) -> PlacementPlan:
    """Return the plan for a prepared model; float_nodes maps the first outputs of nodes that must stay float to why.

    Raises UnsupportedOption for `measured`, which needs timings of a GPU.
    """
    if placement not in PLACEMENTS:
        reason = f"it needs timings of a GPU worker; there are {', '.join(PLACEMENTS)}"
        raise UnsupportedOption(option=f"quantize.placement {placement}", reason=reason)
    return _plan(make_scene(model, types, float_nodes), placement)


def _plan(scene: Scene, placement: str) -> PlacementPlan:
    plan = PlacementPlan()
    plan_weighted(scene, plan, is_conservative=placement == "conservative")
    if placement != "conservative":
        for node, shortcut in find_shortcuts(scene):
            if node.output[0] not in scene.float_nodes:
                plan.add(node, Reads((shortcut,)))
    if placement == "fused":
        widen_regions(scene, plan)
    return plan
