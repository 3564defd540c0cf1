"""What the names of a foreign table are in a model, and what a quantizer needs and does not find in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import onnx

from app.quant.graph import find_activations, find_needed_tensors
from app.quant.neighbours import Filled
from app.quant.trt_names import INTERNAL_PREFIXES, find_constant_names, is_inside
from app.quant.unnamed import map_unnamed

_MOST_UNKNOWN = 1000
_TENSORS = ("matched", "mapped")
_LISTS = ("matched", "mapped", "constants", "internal", "unknown", "zero")


@dataclass
class Coverage:
    """The names of a table by what they are, each in the table's order.

    matched: activations of the model · mapped: unnamed layers whose node is certain, {name: tensor} · constants ·
    internal: what TensorRT makes for itself · unknown · zero: known names that are listed with a range of zero, which is
    none · dead: tensors that are known to be zero on every image · needed: tensors that a placement may quantize · amax:
    of the matched and mapped tensors · kept: amax of all listed names that are no tensors of the model but known.
    """

    amax: dict[str, float]
    needed: tuple[str, ...]
    matched: list[str] = field(default_factory=list)
    mapped: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    dead: frozenset[str] = frozenset()
    filled: dict[str, Filled] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """The needed tensors of which nothing is known: no amax, filled in or not, nor that they are dead."""
        known = self.amax.keys() | self.filled.keys() | self.dead
        return [name for name in self.needed if name not in known]

    @property
    def covered(self) -> int:
        """How many of the needed tensors the table itself has, as dead ones or with an amax."""
        return sum(name in self.amax or name in self.dead for name in self.needed)

    def counts(self) -> dict[str, int]:
        """Return how long each list is."""
        names = (*_LISTS, "missing", "filled")
        return {name: len(getattr(self, name)) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the lists as JSON values; of unknown names, which the model does not bound, the first 1000."""
        lists = {name: getattr(self, name) for name in (*_LISTS, "missing")}
        lists["unknown"] = self.unknown[:_MOST_UNKNOWN]
        return lists | {"filled": {name: filled.to_json() for name, filled in self.filled.items()}}


def match_names(model: onnx.ModelProto, amax: Mapping[str, float], zeros: Sequence[str] = ()) -> Coverage:
    """Return the coverage of a table {name: amax} for a model; `zeros` are listed there with a range of zero.

    Raises what `find_needed_tensors` raises.
    """
    names = _Names.of_model(model, [*amax, *zeros])
    known = {names.tensor(name): value for name, value in amax.items() if names.kind(name) in _TENSORS}
    coverage = Coverage(known, tuple(find_needed_tensors(model)))
    for name, value in amax.items():
        kind = names.kind(name)
        if kind == "mapped":
            coverage.mapped[name] = names.tensor(name)
        else:
            getattr(coverage, kind).append(name)
        if kind not in ("matched", "unknown"):
            coverage.kept[name] = value
    for name in zeros:
        kind = names.kind(name)
        (coverage.unknown if kind == "unknown" else coverage.zero).append(names.tensor(name))
    return coverage


@dataclass(frozen=True)
class _Names:
    """What the names that a table lists are in a model."""

    activations: frozenset[str]
    mapped: Mapping[str, str]
    constants: frozenset[str]
    nodes: frozenset[str]

    @classmethod
    def of_model(cls, model: onnx.ModelProto, listed: Sequence[str]) -> Self:
        activations, graph = frozenset(find_activations(model)), model.graph
        mapped = map_unnamed(model, listed, activations)
        nodes = frozenset(node.name for node in graph.node if node.name)
        return cls(activations, mapped, frozenset(find_constant_names(graph)), nodes)

    def kind(self, name: str) -> str:
        if name in self.activations:
            return "matched"
        if name in self.mapped:
            return "mapped"
        if name in self.constants or "[Constant]" in name:
            return "constants"
        return "internal" if name.startswith(INTERNAL_PREFIXES) or is_inside(name, self.nodes) else "unknown"

    def tensor(self, name: str) -> str:
        return self.mapped.get(name, name)
