"""Which operators and versions are taken."""

import onnx
from onnx import ModelProto, NodeProto

from app.errors import ModelAlreadyQuantized, ModelInvalidGraph, ModelUnsupportedOp

STANDARD_DOMAINS = ("", "ai.onnx")
MIN_OPSET = 7
#: The installed ONNX Runtime runs every opset of the installed onnx; a test holds both to it.
MAX_OPSET = onnx.defs.onnx_opset_version()
MAX_IR_VERSION = onnx.IR_VERSION

#: Operators that exist in quantized models only, of any domain (QLinearConv, ConvInteger, MatMulNBits, QAttention ...).
_QUANTIZED_PREFIXES = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "QAttention")
_QUANTIZED = frozenset({"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QMoE"})


def get_opset(model: ModelProto) -> int:
    """Return the model's version of the standard operators. Raises ModelInvalidGraph where it has none or two."""
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if len(versions) != 1:
        raise ModelInvalidGraph(reason=f"it imports {len(versions)} versions of the standard operators")
    return versions[0]


def check_versions(model: ModelProto) -> None:
    """Raise ModelUnsupportedOp for an opset or IR version that is too old or too new, and for functions."""
    opset = get_opset(model)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        reason = f"opsets {MIN_OPSET} to {MAX_OPSET} are taken"
        raise ModelUnsupportedOp(node="(all)", op=f"opset {opset}", reason=reason)
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        reason = f"IR versions 3 to {MAX_IR_VERSION} are taken"
        raise ModelUnsupportedOp(node="(all)", op=f"IR version {model.ir_version}", reason=reason)
    if model.functions:
        reason = "model-local functions are not taken; inline them (onnx.inliner.inline_local_functions)"
        raise ModelUnsupportedOp(node="(all)", op=f"the function {model.functions[0].name}", reason=reason)


def check_operator(node: NodeProto, opset: int) -> None:
    """Raise ModelAlreadyQuantized, ModelUnsupportedOp or ModelInvalidGraph for a node that is not taken."""
    if any(isinstance(text, bytes) for text in (node.domain, node.op_type, node.name)):
        raise ModelInvalidGraph(reason=f"the name of node {node.name!r}, its operator or domain is not UTF-8")
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.op_type in _QUANTIZED or node.op_type.startswith(_QUANTIZED_PREFIXES):
        raise ModelAlreadyQuantized(node=node_name(node), op=op)
    if node.domain not in STANDARD_DOMAINS:
        reason = f"operators of domain {node.domain} are not standard ONNX"
        raise ModelUnsupportedOp(node=node_name(node), op=op, reason=reason)
    try:
        is_deprecated = onnx.defs.get_schema(node.op_type, opset, "").deprecated
    except onnx.defs.SchemaError as error:
        raise ModelUnsupportedOp(node=node_name(node), op=op, reason=f"opset {opset} has no such operator") from error
    if is_deprecated:
        raise ModelUnsupportedOp(node=node_name(node), op=op, reason=f"it is deprecated in opset {opset}")


def node_name(node: NodeProto) -> str:
    """Return how to call a node: its name, or what it makes."""
    return node.name or f"making {', '.join(str(name) for name in node.output[:2])}"
