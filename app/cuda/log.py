"""TensorRT's log: told to the job line by line, and its complaints kept for the problem that a failure becomes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

#: Receives {"log": line} and {"progress": [done, total]} while a step runs.
Report = Callable[[dict[str, Any]], None]

#: Said once on every machine without a GPU.
_HARMLESS = ("CUDA initialization failure", "cudaDriver", "CUDA driver", "cuInit", "no CUDA-capable device")


def open_log(trt: ModuleType, report: Report, least: str = "INFO") -> Any:
    """Return an ILogger for trt; `errors` and `warnings` hold what it complained of, `least` (a severity) is told."""
    severities = trt.ILogger.Severity
    order = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    told = {getattr(severities, name) for name in order[: order.index(least) + 1]}

    class Lines(trt.ILogger):
        """Every line of one use of TensorRT."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if any(words in message for words in _HARMLESS):
                return
            line = " ".join(message.split())
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                self.errors.append(line)
            elif severity == severities.WARNING:
                self.warnings.append(line)
            if severity in told:
                report({"log": line})

    return Lines()
