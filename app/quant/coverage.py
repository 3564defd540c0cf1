"""What the names of a foreign table are in a model, and what a quantizer needs and does not find in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from app.quant.graph import find_activations, find_needed_tensors
from app.quant.neighbours import Filled
from app.quant.trt_names import INTERNAL_PREFIXES, find_constant_names, find_layer_names
from app.quant.unnamed import map_unnamed

_MOST_UNKNOWN = 1000


@dataclass
class Coverage:
    """The names of a table by what they are, each in the table's order.

    matched: activations of the model · mapped: unnamed layers whose node is certain, {name: tensor} · constants ·
    internal: what TensorRT makes for itself · unknown · needed: tensors that a placement may quantize · amax: of the
    matched and mapped tensors · kept: amax of all listed names that are no tensors of the model but known.
    """

    amax: dict[str, float]
    needed: tuple[str, ...]
    matched: list[str] = field(default_factory=list)
    mapped: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    filled: dict[str, Filled] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """The needed tensors that have no amax, filled in or not."""
        return [name for name in self.needed if name not in self.amax and name not in self.filled]

    @property
    def covered(self) -> int:
        """How many of the needed tensors the table itself has."""
        return sum(name in self.amax for name in self.needed)

    def counts(self) -> dict[str, int]:
        """Return how long each list is."""
        names = ("matched", "mapped", "constants", "internal", "unknown", "missing", "filled")
        return {name: len(getattr(self, name)) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the lists as JSON values; of unknown names, which the model does not bound, the first 1000."""
        lists = {name: getattr(self, name) for name in ("matched", "mapped", "constants", "internal", "unknown", "missing")}
        lists["unknown"] = self.unknown[:_MOST_UNKNOWN]
        return lists | {"filled": {name: filled.to_json() for name, filled in self.filled.items()}}


def match_names(model: onnx.ModelProto, amax: Mapping[str, float]) -> Coverage:
    """Return the coverage of a table {name: amax} for a model. Raises what `find_needed_tensors` raises."""
    activations = set(find_activations(model))
    constants, layers = find_constant_names(model.graph), find_layer_names(model.graph)
    mapped = map_unnamed(model, amax, activations)
    known = {mapped.get(name, name): value for name, value in amax.items() if name in activations or name in mapped}
    coverage = Coverage(known, tuple(find_needed_tensors(model)), mapped=mapped)
    for name, value in amax.items():
        if name in activations:
            coverage.matched.append(name)
        elif name in mapped:
            coverage.kept[name] = value
        elif name in constants or "[Constant]" in name:
            coverage.constants.append(name)
            coverage.kept[name] = value
        elif name.startswith(INTERNAL_PREFIXES) or name in layers:
            coverage.internal.append(name)
            coverage.kept[name] = value
        else:
            coverage.unknown.append(name)
    return coverage
