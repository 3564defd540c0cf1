"""Tests that need an NVIDIA GPU, TensorRT and pycuda; elsewhere each is skipped by name."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cuda.device import Device, count_devices, open_device
from app.cuda.runtime import find_tensorrt

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if _HERE in item.path.parents]
    missing = _missing() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        # TensorRT 10 deprecates what 11 lacks; its bindings answer a warning that became an error with a SystemError.
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(autouse=True)
def _freed() -> Iterator[None]:
    """Free what a failure's traceback keeps before the next test: TensorRT must not free it from within a callback."""
    yield
    with open_device():
        gc.collect()


@pytest.fixture
def gpu() -> Iterator[Device]:
    """The first GPU, with its context current."""
    with open_device() as device:
        yield device


def _missing() -> str | None:
    if find_tensorrt() is None:
        return "TensorRT is not installed here"
    return None if count_devices() else "there is no GPU here, or no pycuda"
