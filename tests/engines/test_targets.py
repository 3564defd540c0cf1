"""An engine is served where it loads, and nowhere else."""

import re
from typing import Any

import pytest

from app.engines.targets import Target, find_mismatch

PLAN: dict[str, Any] = {
    "backend": "tensorrt", "version": "10.6.0", "compute_capability": ["9.0"], "driver_floor": "525.60.13",
    "version_compatible": False, "hardware_compatible": False,
}  # fmt: skip
RTX = {"backend": "tensorrt-rtx", "version": "1.7.1", "compute_capability": ["8.6", "8.9"], "driver_floor": None}
ONNX = {"backend": "onnxruntime", "version": "1.32.0", "compute_capability": None, "driver_floor": None}


@pytest.mark.parametrize(
    ("facts", "target"),
    [
        (PLAN, Target()),
        (PLAN, Target("9.0", "10.6", "580.65.06")),
        (PLAN, Target(tensorrt_version="10.6.0")),
        (PLAN | {"hardware_compatible": True}, Target("8.6")),
        (PLAN | {"version_compatible": True}, Target(tensorrt_version="10.13")),
        (RTX, Target("8.9")),
        (ONNX, Target("7.5", "11.2", "450.80.02")),
    ],
)
def test_what_loads_is_served(facts: dict[str, Any], target: Target) -> None:
    assert find_mismatch(facts, target) is None


@pytest.mark.parametrize(
    ("facts", "target", "reason"),
    [
        (PLAN, Target("8.6"), r"9\.0, not 8\.6"),
        (PLAN, Target(tensorrt_version="10.7"), r"tensorrt 10\.6\.0, not tensorrt 10\.7"),
        (PLAN, Target(tensorrt_version="10.6.1"), r"10\.6\.1"),
        (PLAN, Target(driver="470.57.02"), r"drivers from 525\.60\.13"),
        (PLAN | {"hardware_compatible": True}, Target("7.5"), r"7\.5"),
        (PLAN | {"version_compatible": True}, Target(tensorrt_version="11.0"), r"11\.0"),
        (PLAN | {"version_compatible": True}, Target(tensorrt_version="10.3"), r"10\.3"),
        (RTX, Target("9.0"), r"8\.6, 8\.9, not 9\.0"),
        (RTX, Target(tensorrt_version="10.6"), "tensorrt-rtx"),
    ],
)
def test_what_does_not_load_says_why(facts: dict[str, Any], target: Target, reason: str) -> None:
    found = find_mismatch(facts, target)
    assert found is not None
    assert re.search(reason, found)
