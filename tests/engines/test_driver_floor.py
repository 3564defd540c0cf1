"""Which driver a plan needs, by how TensorRT is installed."""

import importlib.metadata
from pathlib import Path

import pytest

from app.engines.driver_floor import find_driver_floor

STATUS = """\
Package: libnvinfer-bin
Status: install ok installed
Version: 9.1.0.1-1+cuda11.8

Package: libnvinfer8
Status: deinstall ok config-files
Version: 8.6.1.6-1+cuda11.8

Package: libnvinfer10
Status: install ok installed
Depends: libc6
Description: TensorRT
 runtime libraries
Version: 10.6.0.26-1+cuda12.6

Package: libcudart13
Status: install ok installed
Version: 13.0.1-1+cuda13.0
"""


@pytest.fixture
def _no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [found for found in importlib.metadata.distributions() if "tensorrt" not in (found.metadata["Name"] or "")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: others)


@pytest.mark.usefixtures("_no_wheel")
@pytest.mark.parametrize(
    ("version", "status", "floor"),
    [
        ("10.6.0", STATUS, "525.60.13"),
        ("10.6.0", STATUS.replace("cuda12.6", "cuda13.0"), "580.65.06"),
        ("8.6.1", STATUS, None),
        ("8.6.1", STATUS.replace("deinstall ok config-files", "install ok installed"), "450.80.02"),
        ("11.4.0", STATUS, None),
        ("10.6.0", "Package: libnvinfer10\nStatus: install ok unpacked\n\nPackage: libcudart12\nVersion: 1+cuda12.6\n", None),
        ("10.6.0", "", None),
    ],
)
def test_the_debian_package_of_the_version_in_use_says_its_cuda(
    tmp_path: Path, version: str, status: str, floor: str | None
) -> None:
    (tmp_path / "status").write_text(status)
    assert find_driver_floor(version, tmp_path / "status") == floor


@pytest.mark.usefixtures("_no_wheel")
def test_another_installation_says_nothing(tmp_path: Path) -> None:
    assert find_driver_floor("10.6.0", tmp_path / "absent") is None


def test_a_wheel_says_it_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tensorrt_cu13_bindings-11.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt_cu13_bindings\nVersion: 11.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_driver_floor("11.0.0", tmp_path / "absent") == "580.65.06"
