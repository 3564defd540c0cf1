"""Which driver a TensorRT plan needs at least: that of the CUDA version which its TensorRT was built for."""

import importlib.metadata
import re
from pathlib import Path

#: CUDA's minor version compatibility (CUDA release notes, table 2): one floor for each major version, on Linux.
_FLOORS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
_DISTRIBUTION = re.compile(r"tensorrt[-_]cu([0-9]+)(?:[-_]bindings|[-_]libs)?")
#: NVIDIA's Debian packages, of which its images are made, have it in their version: 10.6.0.26-1+cuda12.6.
_DEBIAN_PACKAGE = re.compile(r"^Package: libnvinfer[0-9]+\n(?:[A-Z].*\n|[ \t].*\n)*?Version: .*\+cuda([0-9]+)\.", re.MULTILINE)
_DEBIAN_STATUS = Path("/var/lib/dpkg/status")


def find_driver_floor(debian_status: Path = _DEBIAN_STATUS) -> str | None:
    """Return the floor by the CUDA version of the installed TensorRT: in the name of its wheel, else in its Debian package.

    None for another installation.
    """
    for distribution in importlib.metadata.distributions():
        found = _DISTRIBUTION.fullmatch(distribution.metadata["Name"] or "")
        if found:
            return _FLOORS.get(found[1])
    status = debian_status.read_text(encoding="utf-8", errors="replace") if debian_status.is_file() else ""
    packaged = _DEBIAN_PACKAGE.search(status)
    return _FLOORS.get(packaged[1]) if packaged else None
