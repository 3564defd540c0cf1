"""The step probe: what this machine can build. In a child, because it loads every runtime that is installed."""

from collections.abc import Callable
from typing import Any

from app.engines.backend import find_installed_backends
from app.engines.queues import queue_from_facts


def probe(_request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return {"backends": {name: facts}, "queues": [name]}."""
    backends = {info.name: info.to_json() for info in find_installed_backends()}
    return {"backends": backends, "queues": [queue_from_facts(name, facts) for name, facts in backends.items()]}
