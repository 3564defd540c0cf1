"""The step probe: what this machine can build. In a child, because it loads every runtime that is installed."""

from collections.abc import Callable
from typing import Any

from app.engines.backend import find_installed_backends
from app.engines.queues import queue_from_facts


def probe(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return {"backends": {name: facts}, "queues": [name]} of those in `backends` of the request, by default of all.

    What cannot be asked now, such as a GPU whose memory others hold, is left out; a log line says why.
    """
    found = find_installed_backends(request.get("backends"), report)
    backends = {info.name: info.to_json() for info in found}
    return {"backends": backends, "queues": [queue_from_facts(name, facts) for name, facts in backends.items()]}
