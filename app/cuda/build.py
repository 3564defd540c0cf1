"""From a network to a plan: the builder's options, and the timing cache that spares the next build its measurements."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.cuda.network import Network
from app.spec import ShapeProfile


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    `flags`: names of BuilderFlag. `tf32`: FP32 convolutions may round their inputs to 10 bits; TensorRT's default, not
    ours. `shapes`: optimization profile of each input with dynamic dimensions. `timing_cache`: bytes of an earlier build
    on a like machine, empty to begin one, None to do without. `hardware_compatibility`: a HardwareCompatibilityLevel.
    `calibrator`: an IInt8Calibrator. `compute_capabilities`: GPUs to build for where the builder can (TensorRT-RTX).
    """

    optimization_level: int = 3
    workspace_bytes: int | None = None
    flags: tuple[str, ...] = ()
    tf32: bool = False
    shapes: Mapping[str, ShapeProfile] = field(default_factory=dict)
    timing_cache: bytes | None = None
    hardware_compatibility: str | None = None
    calibrator: Any = None
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A serialized plan, and the timing cache with what this build measured (None where there is none)."""

    plan: bytes
    timing_cache: bytes | None


def build_plan(network: Network, options: BuildOptions) -> Built:
    """Build the network. Raises EngineProblem with TensorRT's last errors, GpuOom, GpuLost."""
    config = network.builder.create_builder_config()
    _set_options(network, config, options)
    cache = None if options.timing_cache is None else _attach_timing_cache(network, config, options.timing_cache)
    with _no_collection():
        plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise network.tensorrt.failure()
    measured = config.get_timing_cache() if cache is not None else None
    return Built(bytes(plan), bytes(measured.serialize()) if measured is not None else None)


@contextmanager
def _no_collection() -> Iterator[None]:
    # The log and a calibrator are called back with TensorRT's locks held. A collection there may free another object of
    # TensorRT, such as a failure's traceback keeps, which takes the same locks.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _set_options(network: Network, config: Any, options: BuildOptions) -> None:
    trt = network.tensorrt.module
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if not options.tf32 and "TF32" in trt.BuilderFlag.__members__:
        config.clear_flag(trt.BuilderFlag.TF32)
    for name in options.flags:
        config.set_flag(trt.BuilderFlag.__members__[name])
    if options.hardware_compatibility is not None:
        level = trt.HardwareCompatibilityLevel.__members__[options.hardware_compatibility]
        config.hardware_compatibility_level = level
    if options.compute_capabilities:
        _set_compute_capabilities(trt, config, options.compute_capabilities)
    _add_profile(network, config, options)
    if options.calibrator is not None:
        config.int8_calibrator = options.calibrator


def _set_compute_capabilities(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for position, value in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{value.replace('.', '')}"), position)


def _add_profile(network: Network, config: Any, options: BuildOptions) -> None:
    dynamic = [value for value in network.inputs if -1 in tuple(value.shape)]
    if not dynamic:
        return
    profile = network.builder.create_optimization_profile()
    for value in dynamic:
        shapes = options.shapes.get(value.name)
        if shapes is None:
            raise network.tensorrt.problem(f"input {value.name} {tuple(value.shape)} needs engine.shapes")
        profile.set_shape(value.name, shapes.min, shapes.opt, shapes.max)
    config.add_optimization_profile(profile)
    if options.calibrator is not None:
        config.set_calibration_profile(profile)


def _attach_timing_cache(network: Network, config: Any, known: bytes) -> Any:
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        network.tensorrt.log.warnings.append("the timing cache of an earlier build is refused; all is measured anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
