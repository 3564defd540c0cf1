"""The GPU: its context as a context manager, and what it is. CUDA's errors become problems by what can be done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from app.cuda.faults import find_gpu_problem
from app.cuda.nvml import find_driver_version
from app.errors import GpuOom, Problem, WorkerProblem

#: Primary contexts stay until the process ends: what TensorRT and pycuda hold may outlive the block that it was made in,
#: as an exception's frames do, and must not go after its context.
_RETAINED: list[Any] = []


@dataclass(frozen=True)
class Device:
    """A GPU. `compute_capability` like "9.0", `driver` like "580.65.06", `cuda` (what the driver can) like "13.0"."""

    ordinal: int
    name: str
    compute_capability: str
    memory_bytes: int
    multiprocessors: int
    pci: str
    driver: str | None
    cuda: str

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self)


def find_driver() -> ModuleType | None:
    """Return pycuda.driver; None where it or the CUDA driver is not installed."""
    try:
        return import_module("pycuda.driver")
    except (ImportError, OSError):
        return None


def get_driver() -> ModuleType:
    """Return pycuda.driver. Raises WorkerProblem where it is not installed."""
    driver = find_driver()
    if driver is None:
        raise WorkerProblem(reason="pycuda or the CUDA driver is not installed here; pip install enginesmith[tensorrt]")
    return driver


def count_devices() -> int:
    """Return how many GPUs this process sees; CUDA_VISIBLE_DEVICES decides."""
    driver = find_driver()
    if driver is None:
        return 0
    try:
        driver.init()
        return driver.Device.count()
    except driver.Error:  # installed, but there is no GPU
        return 0


@contextmanager
def open_device(ordinal: int = 0) -> Iterator[Device]:
    """Make a GPU's primary context current while the block runs; TensorRT works in it as well.

    Raises GpuLost, GpuOom, WorkerProblem.
    """
    driver = get_driver()
    with raising_gpu_problems():
        driver.init()
        device = driver.Device(ordinal)
        context = device.retain_primary_context()
        _RETAINED.append(context)
        context.push()
        try:
            yield _describe(driver, device, ordinal)
        finally:
            driver.Context.pop()


@contextmanager
def raising_gpu_problems() -> Iterator[None]:
    """Turn what pycuda raises into GpuOom, GpuLost or WorkerProblem."""
    driver = get_driver()
    try:
        yield
    except driver.MemoryError as error:
        raise GpuOom(reason=str(error)) from error
    except driver.Error as error:
        raise problem_from_cuda(str(error)) from error


def problem_from_cuda(words: str) -> Problem:
    """Return the problem that CUDA's words mean."""
    return find_gpu_problem([words]) or WorkerProblem(reason=words)


def _describe(driver: ModuleType, device: Any, ordinal: int) -> Device:
    major, minor = device.compute_capability()
    version = driver.get_driver_version()
    return Device(
        ordinal=ordinal,
        name=device.name(),
        compute_capability=f"{major}.{minor}",
        memory_bytes=device.total_memory(),
        multiprocessors=device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT),
        pci=device.pci_bus_id(),
        driver=find_driver_version(),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
    )
