"""TensorRT as it is installed here, imported when first asked for; its versions are told apart by what they can do."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from app.cuda.faults import find_gpu_problem
from app.cuda.log import Report, open_log
from app.errors import EngineProblem, Problem

BACKEND = "tensorrt"
_ERRORS_SHOWN = 6
#: NVIDIA's meta package, then the bindings that it stands for.
_PACKAGES = ("tensorrt", "tensorrt_bindings")


@dataclass(frozen=True)
class Features:
    """What a TensorRT can do. Up to 10 it calibrates itself and takes precision flags; 11 takes typed Q/DQ models alone."""

    int8_calibrator: bool
    precision_flags: bool
    layer_precision: bool
    bf16: bool
    fp8: bool
    hardware_compatibility: tuple[str, ...]


@dataclass(frozen=True)
class TensorRt:
    """A TensorRT in use: its module, the name it goes by here, and the log that all its objects write to."""

    module: ModuleType
    log: Any
    name: str = BACKEND

    @property
    def version(self) -> str:
        return self.module.__version__

    def problem(self, reason: str) -> EngineProblem:
        """Return the problem that TensorRT did not do something for that reason."""
        return EngineProblem(backend=f"{self.name} {self.version}", reason=reason)

    def failure(self) -> Problem:
        """Return the problem that TensorRT's last complaints mean: GpuOom, GpuLost, or EngineProblem with them."""
        complaints = self.log.errors[-_ERRORS_SHOWN:]
        return find_gpu_problem(self.log.errors) or self.problem("; ".join(complaints) or "it gave no reason")


def find_tensorrt() -> ModuleType | None:
    """Return the module of the TensorRT that is installed here, None where there is none or its libraries are not."""
    for package in _PACKAGES:
        try:
            return import_module(package)
        except (ImportError, OSError):  # OSError: the package is there, a library that it loads is not
            continue
    return None


def open_tensorrt(report: Report) -> TensorRt:
    """Return TensorRT with a log whose lines go to report. Raises EngineProblem where it is not installed."""
    module = find_tensorrt()
    if module is None:
        raise EngineProblem(backend=BACKEND, reason="it is not installed here; pip install enginesmith[tensorrt]")
    return TensorRt(module, open_log(module, report))


def features_of(module: ModuleType) -> Features:
    """Return what this TensorRT can do, read from what its module and classes have."""
    flags, types = module.BuilderFlag.__members__, module.DataType.__members__
    levels = getattr(module, "HardwareCompatibilityLevel", None)
    return Features(
        int8_calibrator=hasattr(module, "IInt8EntropyCalibrator2") and hasattr(module.IBuilderConfig, "int8_calibrator"),
        precision_flags="INT8" in flags and "FP16" in flags,
        layer_precision=hasattr(module.ILayer, "precision"),
        bf16="BF16" in types,
        fp8="FP8" in types,
        hardware_compatibility=tuple(level for level in levels.__members__ if level != "NONE") if levels else (),
    )
