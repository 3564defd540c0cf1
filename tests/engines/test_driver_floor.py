"""Which driver a plan needs, by how TensorRT is installed."""

import importlib.metadata
from pathlib import Path

import pytest

from app.engines.driver_floor import find_driver_floor

STATUS = """\
Package: libnvinfer-bin
Status: install ok installed
Version: 9.1.0.1-1+cuda11.8

Package: libnvinfer10
Status: install ok installed
Depends: libc6
 and what follows
Version: 10.6.0.26-1+cuda12.6
Description: TensorRT

Package: libcudart13
Version: 13.0.1-1+cuda13.0
"""


@pytest.fixture
def _no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [found for found in importlib.metadata.distributions() if "tensorrt" not in (found.metadata["Name"] or "")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: others)


@pytest.mark.usefixtures("_no_wheel")
@pytest.mark.parametrize(
    ("status", "floor"),
    [
        (STATUS, "525.60.13"),
        (STATUS.replace("cuda12.6", "cuda13.0"), "580.65.06"),
        (STATUS.replace("Package: libnvinfer10", "Package: libfoo"), None),
        ("Package: libnvinfer10\nStatus: unpacked\n\nPackage: libcudart12\nVersion: 1+cuda12.6\n", None),
        ("", None),
    ],
)
def test_a_debian_package_says_its_cuda(tmp_path: Path, status: str, floor: str | None) -> None:
    (tmp_path / "status").write_text(status)
    assert find_driver_floor(tmp_path / "status") == floor


@pytest.mark.usefixtures("_no_wheel")
def test_another_installation_says_nothing(tmp_path: Path) -> None:
    assert find_driver_floor(tmp_path / "absent") is None


def test_a_wheel_says_it_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tensorrt_cu13_bindings-11.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt_cu13_bindings\nVersion: 11.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_driver_floor(tmp_path / "absent") == "580.65.06"
