"""Engines of TensorRT 10 and 11, built on the GPU that they will run on."""

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.cuda.build import BuildOptions, Built, build_plan
from app.cuda.device import Device, count_devices, open_device
from app.cuda.execution import Execution
from app.cuda.network import Network, parse_network
from app.cuda.runtime import BACKEND as NAME
from app.cuda.runtime import Features, TensorRt, features_of, find_tensorrt, open_tensorrt
from app.engines.backend import BackendInfo, BuildRequest, BuildResult, Report
from app.engines.calibrators import open_cached_calibrator
from app.engines.driver_floor import find_driver_floor
from app.engines.layers import count_layers, list_layers
from app.engines.portions import run_in_portions
from app.engines.tensorrt_rules import LEAST_FP8, builds_for
from app.engines.typed_model import typed_model
from app.errors import EngineProblem, UnsupportedOption

#: From these compute capabilities on a GPU has tensor cores for it.
_LEAST_CAPABILITY = {"fp32": 0.0, "fp16": 5.3, "int8": 6.1, "bf16": 8.0, "fp8": LEAST_FP8}


class TensorRtRunner:
    """A plan on the first GPU, with the context that it needs; `close` lets both go."""

    def __init__(self, plan: bytes, report: Report) -> None:
        self._stack = ExitStack()
        self.device = self._stack.enter_context(open_device())
        tensorrt = open_tensorrt(report)
        self.version = tensorrt.version
        self.execution = Execution(tensorrt, plan)
        self._stack.callback(self.execution.close)
        self._input = self.execution.inputs[0]
        self._span = self.execution.span(self._input)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output by name for a batch of any size, fed to the engine's first input."""
        return run_in_portions(self._run, batch, self._span.least[0], self._span.largest[0])

    def close(self) -> None:
        self._stack.close()

    def _run(self, portion: np.ndarray) -> dict[str, np.ndarray]:
        self.execution.take_shapes({self._input: portion.shape})
        self.execution.upload(self._input, portion)
        self.execution.enqueue()
        return self.execution.download()


class TensorRtBackend:
    """See `app.engines.backend.Backend`."""

    name = NAME

    def probe(self) -> BackendInfo | None:
        module = find_tensorrt()
        if module is None or count_devices() == 0:
            return None
        with ExitStack() as stack:
            gpus = [stack.enter_context(open_device(ordinal)) for ordinal in range(count_devices())]
        features = features_of(module)
        return BackendInfo(
            name=self.name,
            version=module.__version__,
            precisions=_precisions(features, gpus[0]),
            compute_capabilities=(gpus[0].compute_capability,),
            quantizations=("explicit", "implicit") if features.int8_calibrator else ("explicit",),
            gpus=tuple(gpu.to_json() for gpu in gpus),
        )

    def build(self, request: BuildRequest, report: Report) -> BuildResult:
        """Build a plan on the first GPU. Raises EngineProblem, UnsupportedOption, GpuOom, GpuLost."""
        with open_device() as device:
            tensorrt = open_tensorrt(report)
            check_target(request, tensorrt, device)
            model, kept = typed_model(request)
            network = parse_network(tensorrt, model, is_typed=_is_typed(request))
            with naming_lean_runtime(request, tensorrt):
                built = build_plan(network, _options(request, network))
                request.plan.write_bytes(built.plan)
                _keep_timings(request, built)
                execution = Execution(tensorrt, built.plan)
            layers = list_layers(tensorrt, execution.engine)
            execution.close()
        return BuildResult(_metadata(request, tensorrt, device) | {"layers": count_layers(layers), "kept_fp32": kept})

    def open(self, plan: Path, threads: int) -> TensorRtRunner:
        """Return a runner of a plan. Raises EngineProblem where TensorRT refuses it."""
        return TensorRtRunner(plan.read_bytes(), lambda _: None)


def _precisions(features: Features, device: Device) -> tuple[str, ...]:
    has = dict.fromkeys(_LEAST_CAPABILITY, True)
    has |= {"bf16": features.bf16 and features.precision_flags, "fp8": features.fp8}
    capability = float(device.compute_capability)
    return tuple(name for name, least in _LEAST_CAPABILITY.items() if has[name] and capability >= least)


def check_target(request: BuildRequest, tensorrt: TensorRt, device: Device) -> None:
    """Raise UnsupportedOption for what this TensorRT on this GPU does not build."""
    features = features_of(tensorrt.module)
    if not builds_for(request.compute_capability, device.compute_capability, request.hardware_compatible):
        wanted = "hardware_compatible" if request.hardware_compatible else f"compute_capability {request.compute_capability[0]}"
        reason = f"this worker's {device.name} is {device.compute_capability}"
        raise UnsupportedOption(option=f"engine.{wanted}", reason=reason)
    if request.cache is not None and not features.int8_calibrator:
        reason = f"TensorRT {tensorrt.version} has no calibrator any more; use explicit"
        raise UnsupportedOption(option="engine.quantization implicit", reason=reason)
    if request.precision not in _precisions(features, device):
        reason = f"TensorRT {tensorrt.version} on {device.name} builds {', '.join(_precisions(features, device))}"
        raise UnsupportedOption(option=f"engine.precision {request.precision}", reason=reason)


@contextmanager
def naming_lean_runtime(request: BuildRequest, tensorrt: TensorRt) -> Iterator[None]:
    """Add to what TensorRT says of a version-compatible plan that the lean runtime, which it carries, is not installed."""
    try:
        yield
    except EngineProblem as problem:
        lean = find_missing_lean(tensorrt.version) if request.version_compatible else None
        if lean is None:
            raise
        advice = f"a version_compatible plan carries {lean}, which is not installed here; install it, or leave the option out"
        raise tensorrt.problem(f"{advice}: {problem.facts['reason']}") from problem  # a long reason is cut at its end


def find_missing_lean(version: str) -> str | None:
    """Return the library of the lean runtime, which version-compatible plans carry, where it cannot be loaded here."""
    library = f"libnvinfer_lean.so.{version.split('.')[0]}"
    try:
        ctypes.CDLL(library)
    except OSError:
        return library
    return None


def _is_typed(request: BuildRequest) -> bool:
    # Flags choose types where the model does not say them: implicit INT8 by its cache, and bf16.
    return request.cache is None and request.precision != "bf16"


def _options(request: BuildRequest, network: Network) -> BuildOptions:
    return BuildOptions(
        optimization_level=request.optimization_level,
        workspace_bytes=request.workspace_bytes,
        flags=_flags(request),
        tf32=request.tf32,
        shapes=request.shapes,
        timing_cache=_known_timings(request.timing_cache),
        hardware_compatibility="AMPERE_PLUS" if request.hardware_compatible else None,
        calibrator=_calibrator(request, network),
    )


def _flags(request: BuildRequest) -> tuple[str, ...]:
    wanted = {
        "INT8": request.cache is not None,
        "FP16": request.cache is not None and request.float_type == "fp16",
        "BF16": request.precision == "bf16",
        "OBEY_PRECISION_CONSTRAINTS": bool(request.kept_float),
        "VERSION_COMPATIBLE": request.version_compatible,
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def _calibrator(request: BuildRequest, network: Network) -> Any:
    if request.cache is None:
        return None
    _keep_float(network, request)
    return open_cached_calibrator(network.tensorrt.module, request.cache.read_bytes())


def _keep_float(network: Network, request: BuildRequest) -> None:
    """Ask for float layers where the user excluded nodes; the flag OBEY_PRECISION_CONSTRAINTS makes it a must."""
    types = network.tensorrt.module.DataType
    float_type = types.HALF if request.float_type == "fp16" else types.FLOAT
    for layer in network.layers:
        outputs = [layer.get_output(position) for position in range(layer.num_outputs)]
        if any(output.name in request.kept_float for output in outputs):
            layer.precision = float_type
            for position, output in enumerate(outputs):
                if output.dtype == types.FLOAT:
                    layer.set_output_type(position, float_type)


def _known_timings(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return path.read_bytes() if path.exists() else b""


def _keep_timings(request: BuildRequest, built: Built) -> None:
    if request.timing_cache is not None and built.timing_cache is not None:
        request.timing_cache.write_bytes(built.timing_cache)


def _metadata(request: BuildRequest, tensorrt: TensorRt, device: Device) -> dict[str, Any]:
    return {
        "backend": NAME,
        "version": tensorrt.version,
        "precision": request.precision,
        "quantization": "implicit" if request.cache is not None else "explicit",
        "plan_bytes": request.plan.stat().st_size,
        "compute_capability": [device.compute_capability],
        "gpu": device.name,
        "driver": device.driver,
        "driver_floor": find_driver_floor(tensorrt.version) or device.driver,
        "platform": "linux-x86_64",
        "session_options": {},
        "version_compatible": request.version_compatible,
        "hardware_compatible": request.hardware_compatible,
        "tf32": request.tf32,
    }


BACKEND = TensorRtBackend()
