"""A real server as a child process: the command that users run, on a free port, with a data folder of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "app" / "client" / "digits"
MODEL = DIGITS / "mnist-cnn.onnx"
CALIBRATION = DIGITS / "mnist-calibration-500.zip"
TEST_DIGITS = DIGITS / "mnist-test-1500.zip"

_ADDRESS = re.compile(r"serves on (http://\S+)")
_START_SECONDS = 60


class RunningServer:
    """`enginesmith serve --port 0` and its address."""

    def __init__(self, data: Path, *options: str, **environment: str) -> None:
        self.data = data
        self.options = options
        self.environment = {"ENGINESMITH_HEARTBEAT_SECONDS": "1"} | environment
        self.log: list[str] = []
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self, ready: bool = True) -> "RunningServer":
        """Start the server and wait until it answers; with `ready` also until its worker does."""
        command = [sys.executable, "-m", "app", "serve", "--data", str(self.data), "--port", "0", *self.options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ENGINESMITH_")}
        self.process = subprocess.Popen(
            command, env=environment | self.environment, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        self._wait(lambda: bool(self.url))
        self._wait(lambda: self._answers("/readyz" if ready else "/healthz"))
        return self

    def client(self, **options: object) -> httpx.Client:
        """Return an HTTP client of this server."""
        return httpx.Client(base_url=self.url, timeout=120, **options)  # type: ignore[arg-type]

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Send SIGKILL to the server alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)
        self.url = ""

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.log.append(line)
                found = _ADDRESS.search(line)
                if found:
                    self.url = found[1]

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path).status_code == 200
        except httpx.TransportError:
            return False

    def _wait(self, holds: "object") -> None:
        until = time.monotonic() + _START_SECONDS
        while not holds():  # type: ignore[operator]
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError("the server did not start:\n" + "".join(self.log[-40:]))
            time.sleep(0.05)


def upload_digits(client: httpx.Client, model: str = "digits", dataset: str = "digits-calibration") -> None:
    """Upload the packaged digits CNN and its calibration images."""
    for path, file in ((f"/v1/models/{model}", MODEL), (f"/v1/datasets/{dataset}", CALIBRATION)):
        response = client.put(path, content=file.read_bytes())
        assert response.status_code in (200, 201), response.text
