"""Which driver a TensorRT plan needs at least: that of the CUDA version which its TensorRT was built for."""

import importlib.metadata
import re
from email.parser import HeaderParser
from pathlib import Path

#: CUDA's minor version compatibility (CUDA release notes, table 2): one floor for each major version, on Linux.
_FLOORS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
_DISTRIBUTION = re.compile(r"tensorrt[-_]cu([0-9]+)(?:[-_]bindings|[-_]libs)?")
#: NVIDIA's Debian packages, of which its images are made, have it in their version: 10.6.0.26-1+cuda12.6.
_DEBIAN_CUDA = re.compile(r"\+cuda([0-9]+)\.")
_DEBIAN_STATUS = Path("/var/lib/dpkg/status")


def find_driver_floor(version: str, debian_status: Path = _DEBIAN_STATUS) -> str | None:
    """Return the floor of TensorRT of that version by the CUDA in the name of its wheel, else of its Debian package.

    None for another installation.
    """
    for distribution in importlib.metadata.distributions():
        found = _DISTRIBUTION.fullmatch(distribution.metadata["Name"] or "")
        if found:
            return _FLOORS.get(found[1])
    packaged = _DEBIAN_CUDA.search(_debian_version(f"libnvinfer{version.split('.')[0]}", debian_status))
    return _FLOORS.get(packaged[1]) if packaged else None


def _debian_version(package: str, status: Path) -> str:
    """Return the version of a package that is installed, empty for another."""
    content = status.read_text(encoding="utf-8", errors="replace") if status.is_file() else ""
    for paragraph in content.split("\n\n"):
        if paragraph.startswith(f"Package: {package}\n"):
            told = HeaderParser().parsestr(paragraph)
            return told["Version"] or "" if told["Status"] == "install ok installed" else ""
    return ""
