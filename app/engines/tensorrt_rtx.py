"""Engines of TensorRT-RTX, built ahead of time for chosen GPUs on a machine without any."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from app.engines.backend import BackendInfo, BuildRequest, BuildResult, Report, Runner
from app.engines.rules import RTX_COMPUTE_CAPABILITIES, RTX_PRECISIONS
from app.errors import EngineProblem, UnsupportedOption
from app.quant.float16 import float16_from_model
from app.quant.qdq import model_to_bytes

#: Release notes of TensorRT-RTX 1.7 (CUDA 13).
_ERRORS_SHOWN = 6
_HARMLESS = ("CUDA initialization failure", "cudaDriver", "CUDA driver", "cuInit", "no CUDA-capable device")


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
        model, kept = onnx.load(request.model), []
        if request.precision == "fp16":
            model, kept = float16_from_model(model)
        lines = _open_log(trt, report)
        plan = _Build(trt, lines, request).plan_from(model_to_bytes(model))
        request.plan.write_bytes(plan)
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


class _Build:
    """One run of the builder."""

    def __init__(self, trt: ModuleType, lines: Any, request: BuildRequest) -> None:
        self._trt, self._lines, self._request = trt, lines, request
        self._builder = trt.Builder(lines)

    def plan_from(self, onnx_bytes: bytes) -> Any:
        trt = self._trt
        network = self._builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._lines)
        if not parser.parse(onnx_bytes):
            raise EngineProblem(backend="tensorrt-rtx", reason="; ".join(_parser_errors(parser)))
        config = self._config(network)
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            reason = "; ".join(self._lines.errors[-_ERRORS_SHOWN:]) or "it gave no reason"
            raise EngineProblem(backend="tensorrt-rtx", reason=reason)
        return plan

    def _config(self, network: Any) -> Any:
        trt, request = self._trt, self._request
        config = self._builder.create_builder_config()
        config.num_compute_capabilities = len(request.compute_capability)
        for position, value in enumerate(request.compute_capability):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{value.replace('.', '')}"), position)
        config.builder_optimization_level = request.optimization_level
        if request.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._add_profile(network, config)
        return config

    def _add_profile(self, network: Any, config: Any) -> None:
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        if not any(-1 in tuple(value.shape) for value in inputs):
            return
        profile = self._builder.create_optimization_profile()
        for value in inputs:
            shapes = self._request.shapes.get(value.name)
            if shapes is not None and -1 in tuple(value.shape):
                profile.set_shape(value.name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)


def _parser_errors(parser: Any) -> list[str]:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return [f"node {error.node_name()} ({error.node_operator()}): {error.desc()}" for error in errors[:_ERRORS_SHOWN]]


def _find_runtime() -> ModuleType | None:
    try:
        return import_module("tensorrt_rtx")
    except (ImportError, OSError):  # OSError: the package is there, a library that it loads is not
        return None


def _open_log(trt: ModuleType, report: Report) -> Any:
    severities = trt.ILogger.Severity

    class Lines(trt.ILogger):
        """TensorRT's log: warnings and worse are reported, errors kept."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if any(words in message for words in _HARMLESS):
                return  # said once on every machine without a GPU
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                self.errors.append(" ".join(message.split()))
            if severity in (severities.INTERNAL_ERROR, severities.ERROR, severities.WARNING, severities.INFO):
                report({"log": message})

    return Lines()


BACKEND = TensorRtRtxBackend()
