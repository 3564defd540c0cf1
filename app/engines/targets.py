"""Whether an engine loads where a client wants to run it: GPU, TensorRT version, driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.engines.tensorrt_rules import LEAST_COMPATIBLE


@dataclass(frozen=True)
class Target:
    """Where a plan shall run; None is not asked about. `tensorrt_version` and `driver` as far as they are known: 10.6."""

    compute_capability: str | None = None
    tensorrt_version: str | None = None
    driver: str | None = None


def find_mismatch(facts: Mapping[str, Any], target: Target) -> str | None:
    """Return why an engine with these metadata does not load there; None where it does."""
    if target.compute_capability and not _runs_on(facts, target.compute_capability):
        return f"compute capability {', '.join(facts['compute_capability'])}, not {target.compute_capability}"
    if target.tensorrt_version and not _loads_in(facts, target.tensorrt_version):
        return f"{facts['backend']} {facts['version']}, not tensorrt {target.tensorrt_version}"
    floor = facts.get("driver_floor")
    if target.driver and floor and _numbers(target.driver) < _numbers(floor):
        return f"drivers from {floor} on, not {target.driver}"
    return None


def _runs_on(facts: Mapping[str, Any], capability: str) -> bool:
    built_for = facts.get("compute_capability")
    if not built_for or capability in built_for:
        return True  # an ONNX file runs anywhere
    return bool(facts.get("hardware_compatible")) and float(capability) >= LEAST_COMPATIBLE


def _loads_in(facts: Mapping[str, Any], version: str) -> bool:
    if facts["backend"] != "tensorrt":
        return facts["backend"] == "onnxruntime"  # TensorRT reads its Q/DQ model; a plan of TensorRT-RTX it does not
    built, asked = _numbers(facts["version"]), _numbers(version)
    is_later = bool(facts.get("version_compatible")) and built[0] == asked[0] and asked >= built[: len(asked)]
    return built[: len(asked)] == asked or is_later


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
