"""Children that misbehave on purpose."""

import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic

from app.errors import GpuLost, GpuOom, JudgeProblem, ModelUnsupportedOp

Report = Callable[[dict[str, Any]], None]


def answer(request: dict[str, Any], report: Report) -> dict[str, Any]:
    print("this goes to stderr, not among the events")
    report({"progress": [1, 2]})
    return {"echo": request, "environment": sorted(os.environ)}


def who(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    return {"pid": os.getpid(), "folder": str(Path.cwd())}


def count_tracked(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Return how many objects a collection looks at."""
    return {"objects": len(gc.get_objects())}


def get_ready() -> None:
    """Warm up."""


def fail_to_get_ready() -> None:
    raise RuntimeError("no warm-up here")


def reach_out_to_get_ready() -> None:
    """Try the port that HOME names: what a process is told of its environment."""
    print(reach_out({"port": int(os.environ["HOME"])}, print)["refused"], file=sys.stderr)


def path(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    return {"path": sys.path}


def make_model(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Make a class of pydantic's while a distribution in `folder` offers it a plugin; tell whether that was loaded."""
    sys.path.insert(0, request["folder"])
    pydantic.create_model("Model", x=(int, 1))
    return {"loaded": "plugin_from_outside" in sys.modules}


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


def hang_with_a_child(request: dict[str, Any], report: Report) -> dict[str, Any]:
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    report({"log": str(own.pid)})
    return hang(request, report) if request["hangs"] else {}


def crash_with_a_child(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Crash while a process that it started lives: a `command`, a `fork`, or a command in a `session` of its own."""
    if request["how"] == "fork":
        own = os.fork() or time.sleep(600) or 0  # holds the pipe of the events, too
    else:
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        own = subprocess.Popen(sleep, start_new_session=request["how"] == "session").pid
    report({"log": str(own)})
    return segfault(request, report)


def leave(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    sys.exit(3)


def reach_out(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    try:
        socket.create_connection(("127.0.0.1", request["port"]), timeout=2).close()
    except OSError as error:
        return {"refused": type(error).__name__}
    return {"refused": None}


def out_of_gpu_memory(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Build, if the workspace is no larger than 1 GiB."""
    if (request["engine"]["workspace_bytes"] or 1 << 60) > 1 << 30:
        raise GpuOom(reason="Cuda Runtime (out of memory)")
    Path(request["out"]).write_bytes(b"a plan")
    Path(request["timing_cache"]).write_bytes(b"timings")
    return {"backend": "tensorrt"}


def calibrate_in_little_memory(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Calibrate as TensorRT does, if the workspace is no larger than 1 GiB."""
    if (request["spec"]["engine"]["workspace_bytes"] or 1 << 60) > 1 << 30:
        raise GpuOom(reason="Cuda Runtime (out of memory)")
    Path(request["out"]).write_text('{"amax": {}}', encoding="utf-8")
    Path(request["cache"]).write_bytes(b"TRT-100600-EntropyCalibration2")
    return {"tensors": 0, "dead": [], "images": 8, "left_out": 0, "skipped": []}


def no_gpu_memory_at_all(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    raise GpuOom(reason="Cuda Runtime (out of memory)")


def lose_gpu(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    with Path(request["out"]).open("a") as tries:
        tries.write("tried\n")
    raise GpuLost(reason="cuCtxSynchronize failed: unknown error")


def probe_with_gpu(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    return {"backends": {"onnxruntime": {}, "tensorrt": {}}, "queues": ["cpu", "trt10.6-sm90"]}


def probe_without_gpu(_request: dict[str, Any], _report: Report) -> dict[str, Any]:
    return {"backends": {"onnxruntime": {}}, "queues": ["cpu"]}


def build_by_name(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Build a plan that says which placement its Q/DQ model has: by the number of Q nodes and of shortcuts among them."""
    content = Path(request["model"]).read_bytes()
    Path(request["out"]).write_bytes(b"%d pairs" % content.count(b"_DequantizeLinear"))
    return {"backend": "tensorrt", "float_type": request["float_type"]}


def time_by_name(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Find a plan the faster the more pairs it has."""
    pairs = {name: int(Path(path).read_bytes().split()[0]) for name, path in request["plans"].items()}
    return {"precisions": {name: {"median_ms": 1 / count, "p99_ms": 1 / count} for name, count in pairs.items()}}


def judge_by_name(request: dict[str, Any], _report: Report) -> dict[str, Any]:
    """Judge `fused` as worse than the rest."""
    agreement = 0.5 if request["spec"]["quantize"]["placement"] == "fused" else 1.0
    return {"agreement": agreement, "accuracy_int8": None, "accuracy_drop": None, "images": 9, "warnings": []}


def judge_what_overflows(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Find that the outputs of `fused` are no numbers."""
    if request["spec"]["quantize"]["placement"] == "fused":
        raise JudgeProblem(reason="output y of the engine holds NaN or infinity")
    return judge_by_name(request, report)
