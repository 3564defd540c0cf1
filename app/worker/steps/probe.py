"""The step probe: what this machine can build. In a child, because it loads every runtime that is installed."""

from collections.abc import Callable
from typing import Any

from app.engines.backend import find_installed_backends

#: The queue of each backend's jobs.
_QUEUES = {"onnxruntime": "cpu", "tensorrt-rtx": "rtx"}


def probe(_request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return {"backends": {name: facts}, "queues": [name]}."""
    found = find_installed_backends()
    queues = [_QUEUES[info.name] for info in found]
    return {"backends": {info.name: info.to_json() for info in found}, "queues": queues}
