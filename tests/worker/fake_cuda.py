"""A TensorRT and a pycuda that fail as on a machine whose GPU does, in a folder for PYTHONPATH."""

from pathlib import Path

_TENSORRT = """
import enum
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
"""
_DRIVER = """
import ctypes
class Error(Exception):
    pass
class MemoryError(Error):
    pass
class LaunchError(Error):
    pass
def init():
    pass
class Device:
    def __init__(self, ordinal):
        {fault}
    @staticmethod
    def count():
        return 1
"""
#: What asking for the GPU does.
FAULTS = {
    "full": 'raise MemoryError("cuDevicePrimaryCtxRetain failed: out of memory")',
    "lost": 'raise LaunchError("cuDevicePrimaryCtxRetain failed: unknown error")',
    "segfault": "ctypes.string_at(0)",
}


def write_packages(folder: Path, fault: str) -> Path:
    """Write both packages below folder, of a GPU with that fault; return the folder for PYTHONPATH."""
    (folder / "pycuda").mkdir(parents=True)
    (folder / "pycuda" / "__init__.py").touch()
    (folder / "pycuda" / "driver.py").write_text(_DRIVER.format(fault=FAULTS[fault]), encoding="utf-8")
    (folder / "tensorrt.py").write_text(_TENSORRT, encoding="utf-8")
    return folder
