"""Which nodes the user leaves in float: by node name, output tensor name, or glob pattern."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx

from app.errors import SpecProblem
from app.quant.given_names import Origins, find_origins

_PATTERN_CHARACTERS = frozenset("*?[")


def find_excluded(exclude: Sequence[str], original: onnx.GraphProto, prepared: onnx.GraphProto) -> dict[str, str]:
    """Return the first outputs of the prepared nodes that `exclude` names, each with the entry that names it.

    An entry is a node's name or the name of one of its outputs; one with * ? or [ that is neither is a pattern
    (`*` any text, `?` one character, `[ab]` one of these) over both, case-sensitive. A node that preparation removed
    (a BatchNormalization that was folded) counts as known and changes nothing.
    Raises SpecProblem naming the entries that fit no node.
    """
    chosen: dict[str, str] = {}
    unknown: list[str] = []
    counts = Counter(node.name for node in original.node)
    origins = find_origins(original, prepared) if exclude else {}
    for entry in exclude:
        meant = [node for node in original.node if matches(entry, node)]
        outputs = {node.output[0] for node in meant}
        # A convolution into which a node was folded writes that one's output; its own output's name is gone. Nodes may share
        # a name: then an output alone tells which is meant.
        names = {node.name for node in meant if node.name and counts[node.name] == 1}
        found = [
            node for node in prepared.node if matches(entry, node) or node.name in names or _was_one_of(node, outputs, origins)
        ]
        if not meant and not found:
            unknown.append(entry)
        for node in found:
            chosen.setdefault(node.output[0], entry)
    if unknown:
        raise SpecProblem(reason=f"quantize.exclude names no node or tensor of the model: {', '.join(unknown)}")
    return chosen


def _was_one_of(node: onnx.NodeProto, outputs: set[str], origins: Origins) -> bool:
    origin = origins.get(node.output[0])
    return origin is not None and origin.output[0] in outputs


def matches(entry: str, node: onnx.NodeProto) -> bool:
    """Return whether an exclude entry names node."""
    names = [name for name in (node.name, *node.output) if name]
    if entry in names:
        return True
    return bool(_PATTERN_CHARACTERS & set(entry)) and any(fnmatchcase(name, entry) for name in names)
