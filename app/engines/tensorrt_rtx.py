"""Engines of TensorRT-RTX, built ahead of time for chosen GPUs on a machine without any."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from app.cuda.build import BuildOptions, build_plan
from app.cuda.log import open_log
from app.cuda.network import parse_network
from app.cuda.runtime import TensorRt
from app.engines.backend import BackendInfo, BuildRequest, BuildResult, Report, Runner
from app.engines.rules import RTX_COMPUTE_CAPABILITIES, RTX_PRECISIONS
from app.engines.typed_model import typed_model
from app.errors import EngineProblem, UnsupportedOption


class TensorRtRtxBackend:
    """See `app.engines.backend.Backend`."""

    name = "tensorrt-rtx"

    def probe(self) -> BackendInfo | None:
        trt = _find_runtime()
        if trt is None:
            return None
        return BackendInfo(self.name, trt.__version__, RTX_PRECISIONS, RTX_COMPUTE_CAPABILITIES)

    def build(self, request: BuildRequest, report: Report) -> BuildResult:
        """Build a strongly typed plan for request.compute_capability. Raises EngineProblem with TensorRT's last errors."""
        trt = _find_runtime()
        if trt is None:
            raise EngineProblem(backend=self.name, reason="it is not installed here; pip install enginesmith[rtx]")
        model, kept = typed_model(request)
        network = parse_network(TensorRt(trt, open_log(trt, report), self.name), model, is_typed=True)
        request.plan.write_bytes(build_plan(network, _options(request)).plan)
        return BuildResult(
            {
                "backend": self.name,
                "version": trt.__version__,
                "precision": request.precision,
                "plan_bytes": request.plan.stat().st_size,
                "compute_capability": list(request.compute_capability),
                "platform": "linux-x86_64",
                "session_options": {},
                "layers": None,
                "kept_fp32": kept,
                "driver_floor": None,
            }
        )

    def open(self, plan: Path, threads: int) -> Runner:
        """Raise UnsupportedOption: these plans run on the GPUs that they were built for."""
        raise UnsupportedOption(option="running a tensorrt-rtx plan", reason="this worker has no GPU for it")


def _options(request: BuildRequest) -> BuildOptions:
    return BuildOptions(
        optimization_level=request.optimization_level,
        workspace_bytes=request.workspace_bytes,
        tf32=True,  # as TensorRT-RTX does by itself
        shapes=request.shapes,
        compute_capabilities=request.compute_capability,
    )


def _find_runtime() -> ModuleType | None:
    try:
        return import_module("tensorrt_rtx")
    except (ImportError, OSError):  # OSError: the package is there, a library that it loads is not
        return None


BACKEND = TensorRtRtxBackend()
