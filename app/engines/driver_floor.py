"""Which driver a TensorRT plan needs at least: that of the CUDA version which its TensorRT was built for."""

import importlib.metadata
import re

#: CUDA's minor version compatibility (CUDA release notes, table 2): one floor for each major version, on Linux.
_FLOORS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
_DISTRIBUTION = re.compile(r"tensorrt[-_]cu([0-9]+)(?:[-_]bindings|[-_]libs)?")


def find_driver_floor() -> str | None:
    """Return the floor by the CUDA version in the name of the installed TensorRT wheel; None for another installation."""
    for distribution in importlib.metadata.distributions():
        found = _DISTRIBUTION.fullmatch(distribution.metadata["Name"] or "")
        if found:
            return _FLOORS.get(found[1])
    return None
