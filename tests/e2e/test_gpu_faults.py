"""A worker whose GPU fails in every way, over HTTP: each job says how, and worker and queues live on."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running import MODEL, RunningServer
from tests.worker.fake_cuda import set_fault, write_packages


class Failing:
    """A server whose worker has a GPU that fails as told."""

    def __init__(self, http: httpx.Client, packages: Path) -> None:
        self.http, self.packages = http, packages
        self._sent = 0

    def run(self, fault: str, **engine: Any) -> dict[str, Any]:
        """Return the job of an engine that is built while the GPU has this fault."""
        set_fault(self.packages, fault)
        self._sent += 1
        chosen = {"precision": "fp32", "shapes": {"input": {side: [self._sent, 1, 28, 28] for side in ("min", "opt", "max")}}}
        spec = {"model": "digits", "calibration": None, "engine": chosen | engine}
        job = self.http.post("/v1/jobs", params={"wait": 60}, json=spec).json()
        assert job["state"] in ("failed", "succeeded"), job
        return job

    def log(self, job: dict[str, Any]) -> str:
        return self.http.get(f"/v1/jobs/{job['id']}/events").text

    def worker(self) -> dict[str, Any]:
        (worker,) = (worker for worker in self.http.get("/v1/workers").json()["items"] if worker["capabilities"])
        return worker


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failing]:
    folder = tmp_path_factory.mktemp("server")
    packages = write_packages(folder / "site", "build full")
    limits = {"ENGINESMITH_STEP_LIMITS__BUILD_SECONDS": "6", "ENGINESMITH_LOST_WORKER_SECONDS": "2"}
    server = RunningServer(folder / "data", PYTHONPATH=str(packages), **limits).start()
    with server.client() as client:
        client.put("/v1/models/digits", content=MODEL.read_bytes()).raise_for_status()
        yield Failing(client, packages)
    server.stop()


def test_the_worker_is_listed_with_what_its_gpu_is(failing: Failing) -> None:
    worker = failing.worker()
    assert "trt10.6-sm90" in worker["capabilities"]
    (gpu,) = worker["gpus"]
    assert (gpu["name"], gpu["compute_capability"], gpu["memory_bytes"]) == ("a GPU that fails", "9.0", 80 << 30)
    assert worker["backends"]["tensorrt"]["version"] == "10.6.0"


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("build full", "gpu_oom", "Trying once more with workspace_bytes"),
        ("build segfault", "crash_loop", "SIGSEGV"),
        ("build hang", "build_timeout", "6 seconds"),
    ],
)
def test_a_build_that_fails_says_how_and_the_worker_lives_on(failing: Failing, fault: str, code: str, words: str) -> None:
    before = failing.worker()["id"]
    job = failing.run(fault, backend="tensorrt", compute_capability="9.0")
    assert (job["state"], job["error"]["code"], job["queue"]) == ("failed", code, "trt10.6-sm90")
    assert words in failing.log(job)
    assert failing.run(fault, backend="onnxruntime")["state"] == "succeeded"
    assert failing.worker()["id"] == before


def test_a_gpu_that_is_gone_takes_its_queue_along_and_nothing_else(failing: Failing) -> None:
    before = failing.worker()["id"]
    job = failing.run("gone", backend="tensorrt")
    assert job["error"]["code"] == "worker_unavailable"
    assert "tensorrt fp32 explicit" in job["error"]["detail"]
    assert failing.run("gone", backend="onnxruntime")["state"] == "succeeded"
    for _ in range(100):
        if failing.worker()["id"] != before:
            break
        time.sleep(0.1)
    assert "trt10.6-sm90" not in failing.worker()["capabilities"]
