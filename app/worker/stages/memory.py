"""A step that ran out of the GPU's memory: once more with a smaller workspace, and a note of it."""

from collections.abc import Callable
from typing import Any

from app.errors import GpuOom
from app.worker.context import Run

#: It gets this share of the workspace (of the GPU's memory where none was given).
_LESS_WORKSPACE = 4
_LEAST_BYTES = 1 << 20


def attempt_with_less(
    run: Run, engine: dict[str, Any], note: str, attempt: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Return what attempt(engine) does; after GpuOom what it does with less, with `note`: {after, workspace_bytes} added.

    Raises GpuOom where that does not help.
    """
    try:
        return attempt(engine)
    except GpuOom as problem:
        memory: int = run.worker.backends["tensorrt"]["gpus"][0]["memory_bytes"]
        less = max(_LEAST_BYTES, (engine["workspace_bytes"] or memory) // _LESS_WORKSPACE)
        run.say(f"{problem.detail} Trying once more with workspace_bytes {less}.")
        return attempt(engine | {"workspace_bytes": less}) | {note: {"after": problem.code, "workspace_bytes": less}}
