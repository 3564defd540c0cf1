"""Ranges as other calibrators write them in JSON: ONNX Runtime's `calibration.json`, and scales named like ModelOpt's.

ONNX Runtime: {tensor: {"CLS": "TensorData", "lowest": array, "highest": array, ...}}, whole or under "data" of a
TensorsData; before 1.17 {tensor: [lowest, highest]}. amax = max(|lowest|, |highest|).
ModelOpt reads a TRT cache as {tensor + "_scale": scale}; its quantizers in PyTorch are named after modules, not tensors.
"""

import math
from collections.abc import Mapping
from typing import Any

from app.errors import TableProblem, TableScaleInvalid

_SCALE = "_scale"
_ARRAY_CLASS = "numpy.array"
#: Per-channel ranges have one number a channel.
_MOST_CHANNELS = 1 << 20


def is_onnxruntime_json(fields: Mapping[str, Any]) -> bool:
    """Return whether these are the fields of ONNX Runtime's calibration.json."""
    entries = _entries(fields)
    return bool(entries) and all(_is_range(entry) for entry in entries.values())


def amax_from_onnxruntime(fields: Mapping[str, Any]) -> dict[str, float]:
    """Return amax by tensor name. Raises TableScaleInvalid for a range that is none."""
    return {name: _amax_from_range(name, entry) for name, entry in _entries(fields).items()}


def is_modelopt_json(fields: Mapping[str, Any]) -> bool:
    """Return whether every field is a number with a name that ends like ModelOpt's scales."""
    return bool(fields) and all(_is_number(value) for value in fields.values()) and all(n.endswith(_SCALE) for n in fields)


def scales_from_modelopt(fields: Mapping[str, Any]) -> dict[str, float]:
    """Return scale by tensor name. Raises TableProblem where names are those of PyTorch modules."""
    modules = [name for name in fields if "_quantizer." in name]
    if modules:
        reason = f"{modules[0]} names a PyTorch module, not a tensor of the model; export the ONNX model and its cache"
        raise TableProblem(reason=reason)
    return {name.removesuffix(_SCALE): _float(value) for name, value in fields.items()}


def _entries(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = fields.get("data") if fields.get("CLS") == "TensorsData" else fields
    return inner if isinstance(inner, dict) else {}


def _is_range(entry: object) -> bool:
    if isinstance(entry, dict):
        return {"lowest", "highest"} <= entry.keys()
    return isinstance(entry, list) and len(entry) == 2 and all(_is_number(value) for value in entry)


def _amax_from_range(name: str, entry: Any) -> float:
    bounds = [entry["lowest"], entry["highest"]] if isinstance(entry, dict) else entry
    values = [value for bound in bounds for value in _numbers(name, bound)]
    if not values or not all(math.isfinite(value) for value in values):
        raise TableScaleInvalid(tensor=name, value=str(bounds)[:60])
    return max(abs(value) for value in values)


def _numbers(name: str, bound: Any) -> list[float]:
    if isinstance(bound, dict) and bound.get("CLS") == _ARRAY_CLASS:
        bound = bound.get("data")
    values: list[Any] = bound if isinstance(bound, list) else [bound]
    if len(values) > _MOST_CHANNELS or not all(_is_number(value) for value in values):
        raise TableScaleInvalid(tensor=name, value=str(bound)[:60])
    return [_float(value) for value in values]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of JSON may have any number of digits
        return math.inf
