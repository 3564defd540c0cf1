"""The child: one call from stdin, events and one result or problem as JSON lines on stdout, then the end."""

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from app.child import sandbox
from app.errors import ModelInspectionLimit, Problem


def main() -> None:
    """Run the call that stands on stdin; warm up before, if argv names a function for it."""
    parent, *warm_up = sys.argv[1:]
    sandbox.die_with_parent(int(parent))
    say = _take_stdout()
    sandbox.forbid_privileges()
    if warm_up:
        find_function(warm_up[0])()
        gc.collect()  # what is left over now would stay, see below
        say({"warm": True})
    if not (words := sys.stdin.read()):
        return  # it was a spare one, and is not needed
    call = json.loads(words)
    os.chdir(call["folder"])
    if call["memory_bytes"]:
        sandbox.limit_memory(call["memory_bytes"])
    say(_answer(call, say))


def _answer(call: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    try:
        step = find_function(call["target"])
        gc.freeze()  # a collection that looks at all that was loaded takes milliseconds, in which no thread gets the GIL
        return {"result": step(call["request"], say)}
    except Problem as problem:
        return {"problem": problem.to_json()}
    except (MemoryError, RecursionError):
        return {"problem": ModelInspectionLimit().to_json()}


def find_function(target: str) -> Callable[..., Any]:
    """Return the function "app.room.module:name". Raises Problem for any other module."""
    if not target.startswith("app."):
        raise Problem(reason=f"no child runs {target}")
    return import_function(target)


def import_function(target: str) -> Callable[..., Any]:
    """Return the function "module:name"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _take_stdout() -> Callable[[dict[str, Any]], None]:
    # What libraries print must not stand among the events, so stdout becomes stderr and the events keep the pipe.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(event: dict[str, Any]) -> None:
        pipe.write(json.dumps(event) + "\n")
        pipe.flush()

    return say


if __name__ == "__main__":
    main()
