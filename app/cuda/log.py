"""TensorRT's log: told to the job line by line, and its complaints kept for the problem that a failure becomes."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

#: Receives {"log": line} and {"progress": [done, total]} while a step runs.
Report = Callable[[dict[str, Any]], None]

#: Said once on every machine without a GPU.
_HARMLESS = ("CUDA initialization failure", "cudaDriver", "CUDA driver", "cuInit", "no CUDA-capable device")


#: TensorRT keeps the first logger that it is given for as long as anything made with it lives, whatever it is given later,
#: and calls it from its own threads. So there is one a process, and it is never freed.
_LOGS: dict[str, Any] = {}

_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


def open_log(trt: ModuleType, report: Report, least: str = "INFO") -> Any:
    """Return the ILogger of trt, emptied; `errors` and `warnings` hold complaints, lines down to `least` are told to report."""
    if trt.__name__ not in _LOGS:
        _LOGS[trt.__name__] = _make_log(trt)
    log = _LOGS[trt.__name__]
    log.begin(report, _SEVERITIES[: _SEVERITIES.index(least) + 1])
    return log


def _make_log(trt: ModuleType) -> Any:
    class Lines(trt.ILogger):
        """Every line of TensorRT in this process."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def begin(self, report: Report, told: Sequence[str]) -> None:
            """Forget what was complained of before, and tell lines of these severities to report from now on."""
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self._report, self._told = report, told

        def log(self, severity: Any, message: str) -> None:
            if any(words in message for words in _HARMLESS):
                return
            line = " ".join(message.split())
            if severity.name in _SEVERITIES[:2]:
                self.errors.append(line)
            elif severity.name == "WARNING":
                self.warnings.append(line)
            if severity.name in self._told:
                self._report({"log": line})

    return Lines()
