"""The seam of all runtimes that make engines: what a backend is asked, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from app.errors import Problem, UnsupportedOption
from app.spec import FloatType, Precision, ShapeProfile

#: Receives {"log": line} and {"progress": [done, total]} while a step runs.
Report = Callable[[dict[str, Any]], None]

#: In the order in which the modules are asked who they are.
_MODULES = {
    "onnxruntime": "app.engines.onnxruntime",
    "tensorrt-rtx": "app.engines.tensorrt_rtx",
    "tensorrt": "app.engines.tensorrt",
}


@dataclass(frozen=True)
class BackendInfo:
    """What an installed backend is: `version` of the runtime, what it builds and for which GPUs (empty: CPU).

    `quantizations`: explicit, and implicit where the runtime can. `gpus`: facts of those that are here.
    """

    name: str
    version: str
    precisions: tuple[str, ...]
    compute_capabilities: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ("explicit",)
    gpus: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build.

    `model`: for int8 a Q/DQ model, else the FP32 model (`app.quant.graph.prepare_model`). `plan`: where the engine is
    written. `shapes`: optimization profile of each input with dynamic dimensions. `compute_capability`: GPUs to build
    for ("8.6"), empty for a CPU. `threads`: of the CPU, for trying the engine. Of TensorRT alone: `cache`: TRT cache text
    for implicit quantization of an FP32 model. `kept_float`: tensors whose makers then stay float. `timing_cache`: a file
    of timings, read where it exists and written with what the build added.
    """

    model: Path
    plan: Path
    precision: Precision = "int8"
    float_type: FloatType = "fp32"
    shapes: Mapping[str, ShapeProfile] = field(default_factory=dict)
    compute_capability: tuple[str, ...] = ()
    optimization_level: int = 3
    workspace_bytes: int | None = None
    threads: int = 1
    cache: Path | None = None
    kept_float: frozenset[str] = frozenset()
    timing_cache: Path | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True)
class BuildResult:
    """A built engine: `metadata` is JSON.

    backend, version, precision, plan_bytes, compute_capability: list or None, platform, session_options: what the engine
    must be run with, layers: {"int8": n, "float": n, ...} or None where it cannot be told, kept_fp32, driver_floor.
    """

    metadata: dict[str, Any]


class Runner(Protocol):
    """An engine that is ready to run."""

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output by name for float32[N, ...] fed to the model's only input."""
        ...


class Backend(Protocol):
    """A runtime that makes engines."""

    name: str

    def probe(self) -> BackendInfo | None:
        """Return what is installed, None when nothing is."""
        ...

    def build(self, request: BuildRequest, report: Report) -> BuildResult:
        """Write the plan; raise EngineProblem with the runtime's own words where it fails."""
        ...

    def open(self, plan: Path, threads: int) -> Runner:
        """Return a runner of a plan; raise UnsupportedOption where this machine cannot run it."""
        ...


def get_backend(name: str) -> Backend:
    """Return a backend by its name in the spec; its runtime may not be installed. Raises UnsupportedOption."""
    if name not in _MODULES:
        raise UnsupportedOption(option=f"engine.backend {name}", reason=f"there are {', '.join(_MODULES)}")
    return import_module(_MODULES[name]).BACKEND


def find_installed_backends(names: Sequence[str] | None = None, report: Report = lambda _: None) -> list[BackendInfo]:
    """Return what every installed backend, of these names, says of itself; this loads their libraries.

    One that cannot tell is left out, and the reason is reported.
    """
    found: list[BackendInfo] = []
    for name in names or _MODULES:
        try:
            info = get_backend(name).probe()
        except Problem as problem:
            report({"log": f"{name} is installed and cannot be used: {problem.detail}"})
        else:
            found += [info] if info is not None else []
    return found
