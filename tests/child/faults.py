"""Children that misbehave on purpose."""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from app.errors import ModelUnsupportedOp

Report = Callable[[dict[str, Any]], None]


def answer(request: dict[str, Any], report: Report) -> dict[str, Any]:
    print("this goes to stderr, not among the events")
    report({"progress": [1, 2]})
    return {"echo": request, "environment": sorted(os.environ)}


def problem(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    raise ModelUnsupportedOp(node="n", op="Magic\n\x1b[31m", reason="it is none")


def crash(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    os.kill(os.getpid(), request["signal"])
    return {}


def segfault(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def grow(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    return {"size": len(bytearray(16 << 30))}


def hang(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return {}


def leave(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    sys.exit(3)


def reach_out(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    try:
        socket.create_connection(("127.0.0.1", request["port"]), timeout=2).close()
    except OSError as error:
        return {"refused": type(error).__name__}
    return {"refused": None}
