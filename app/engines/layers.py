"""Which layers of a TensorRT engine run in which precision, from its engine inspector."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.cuda.runtime import TensorRt

#: How the inspector's tensor formats name a type, each with the word of a spec; the first that occurs counts.
_TYPES = {
    "int8": "int8", "bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8", "e4m3": "fp8", "fp16": "fp16", "half": "fp16",
    "fp32": "fp32", "float": "fp32",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer of a built engine: its kind by TensorRT's word, the types that it reads and writes, and its tactic."""

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    tactic: str

    @property
    def precision(self) -> str:
        """The type of what it reads first: where an INT8 convolution writes floats it still multiplies INT8."""
        return next(iter(self.reads or self.writes), "other")


def list_layers(tensorrt: TensorRt, engine: Any) -> list[Layer]:
    """Return the engine's layers in their order; a plan without details gives names alone."""
    text = engine.create_engine_inspector().get_engine_information(tensorrt.module.LayerInformationFormat.JSON)
    return [layer_from_json(value) for value in json.loads(text).get("Layers", [])]


def layer_from_json(value: dict[str, Any] | str) -> Layer:
    """Return a layer as the inspector tells it."""
    if isinstance(value, str):
        return Layer(value, "unknown", (), (), "")
    reads, writes = (tuple(_type_of(tensor) for tensor in value.get(side, [])) for side in ("Inputs", "Outputs"))
    return Layer(value.get("Name", ""), value.get("LayerType", "unknown"), reads, writes, value.get("TacticName", ""))


def count_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return {"int8": n, "fp16": n, ..., "reformat": n, "kinds": {kind: n}}; a reformat changes layout or type alone."""
    counts = Counter("reformat" if layer.kind == "Reformat" else layer.precision for layer in layers)
    named = {name: counts.get(name, 0) for name in ("int8", "fp16", "fp32", "reformat")}
    kinds = Counter(layer.kind for layer in layers)
    return named | dict(sorted(counts.items())) | {"kinds": dict(sorted(kinds.items()))}


def _type_of(tensor: dict[str, Any]) -> str:
    words = str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))).lower()
    return next((name for sign, name in _TYPES.items() if sign in words), "other")
