"""A TensorRT and a pycuda that fail as on a machine whose GPU does, in a folder for PYTHONPATH.

What fails stands in the file `fault` beside them and may change while a worker runs.
"""

from pathlib import Path

_TENSORRT = """
import ctypes, enum, time
from pathlib import Path
__version__ = "10.6.0"
class BuilderFlag(enum.Enum):
    FP16 = 0
    INT8 = 1
class DataType(enum.Enum):
    FLOAT = 0
class IBuilderConfig:
    pass
class ILayer:
    pass
class ILogger:
    class Severity(enum.Enum):
        ERROR = 1
class Builder:
    def __init__(self, log):
        fault = Path(__file__).with_name("fault").read_text()
        if fault == "build segfault":
            ctypes.string_at(0)
        if fault == "build hang":
            time.sleep(600)
        words = {"build full": "Cuda Runtime (out of memory)", "gone": "Cuda Runtime (unknown error)"}
        log.log(ILogger.Severity.ERROR, words.get(fault, "no such fault"))
        raise TypeError("factory function returned nullptr")
"""
_DRIVER = """
import ctypes
from pathlib import Path
class Error(Exception):
    pass
class MemoryError(Error):
    pass
class LaunchError(Error):
    pass
def init():
    pass
def get_driver_version():
    return 13000
class device_attribute:
    MULTIPROCESSOR_COUNT = 1
class Context:
    def push(self):
        pass
    @staticmethod
    def pop():
        pass
def fault():
    return Path(__file__).parent.with_name("fault").read_text()
class Device:
    def __init__(self, ordinal):
        if fault() == "segfault":
            ctypes.string_at(0)
        if fault() == "full":
            raise MemoryError("cuDevicePrimaryCtxRetain failed: out of memory")
        if fault() == "lost":
            raise LaunchError("cuDevicePrimaryCtxRetain failed: unknown error")
    @staticmethod
    def count():
        return int(fault() != "gone")
    def retain_primary_context(self):
        return Context()
    def name(self):
        return "a GPU that fails"
    def compute_capability(self):
        return (9, 0)
    def total_memory(self):
        return 80 << 30
    def get_attribute(self, _which):
        return 100
    def pci_bus_id(self):
        return "0000:01:00.0"
"""


def write_packages(folder: Path, fault: str) -> Path:
    """Write both packages below folder, of a GPU with that fault; return the folder for PYTHONPATH."""
    (folder / "pycuda").mkdir(parents=True)
    (folder / "pycuda" / "__init__.py").touch()
    (folder / "pycuda" / "driver.py").write_text(_DRIVER, encoding="utf-8")
    (folder / "tensorrt.py").write_text(_TENSORRT, encoding="utf-8")
    return set_fault(folder, fault)


def set_fault(folder: Path, fault: str) -> Path:
    """Let what is asked of the GPU from now on end so: full, lost, segfault, gone, or the same of a build alone."""
    (folder / "fault").write_text(fault, encoding="utf-8")
    return folder
