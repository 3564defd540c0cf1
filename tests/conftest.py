"""Fixtures that many tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.running import RunningServer, upload_digits


def pytest_configure() -> None:
    """Let programs that tests start be interrupted, also where a shell started pytest in the background: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one worker, shared by all tests that only add to it; the digits are uploaded."""
    running = RunningServer(tmp_path_factory.mktemp("server")).start()
    with running.client() as client:
        upload_digits(client)
    yield running
    assert running.stop() == 0, "".join(running.log[-40:])


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    """A plain HTTP client of the shared server."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of larger test inputs; tests that need it are skipped by name elsewhere."""
    folder = os.environ.get("ENGINESMITH_ASSETS")
    if not folder:
        pytest.skip("ENGINESMITH_ASSETS is not set: EfficientNet-Lite0 and the photos are not here")
    return Path(folder)
