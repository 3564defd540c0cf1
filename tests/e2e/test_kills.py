"""kill -9 of the worker at each stage, of the API at its worst moments: nothing is lost, nothing saved is repeated."""

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.running import CALIBRATION, RunningServer, upload_digits

JOB = {
    "model": "digits",
    "dataset": "digits-calibration",
    "calibration": {"method": "minmax", "max_images": 100},
    "judge": {"images": 50},
}
STAGES = ("observe", "derive", "quantize", "build", "judge")


def wait_for(client: httpx.Client, job_id: str, seconds: float = 90) -> dict[str, Any]:
    """Return the ended job."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = client.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()
        if job["state"] in ("succeeded", "failed", "cancelled"):
            return job
    raise AssertionError(f"{job_id} did not end")


def stages_entered(client: httpx.Client, job_id: str) -> Counter[str]:
    """Return how often each stage of an ended job was entered, from its events."""
    lines = client.get(f"/v1/jobs/{job_id}/events").text.splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert kinds[-1] == "done"
    assert kinds.count("done") == 1
    bodies = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return Counter(body["stage"] for body in bodies if body.get("stage") and "state" in body)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_worker_killed_in_a_stage(tmp_path: Path, stage: str, place: str) -> None:
    server = RunningServer(tmp_path, ENGINESMITH_FAILPOINT=f"{stage}:{place}").start()
    try:
        with server.client() as client:
            upload_digits(client)
            job = wait_for(client, client.post("/v1/jobs", json=JOB).json()["id"])
            assert (tmp_path / "failpoint-reached").exists(), "the worker was not killed, so nothing was shown"
            assert (job["state"], job["error"]) == ("succeeded", None)
            assert job["attempt"] == 2
            entered = stages_entered(client, job["id"])
            repeated = {name for name, times in entered.items() if times > 1}
            assert repeated <= ({stage} if place == "before" else set())
            assert len(client.get("/v1/tables").json()["items"]) == 1
            assert len(client.get("/v1/engines").json()["items"]) == 1
            assert client.get(job["report_url"]).json()["agreement"] > 0.9
    finally:
        server.stop()


def test_job_that_always_kills_its_worker_ends(tmp_path: Path) -> None:
    server = RunningServer(tmp_path, ENGINESMITH_MAX_CRASHES="1", ENGINESMITH_FAILPOINT="observe:before").start()
    try:
        with server.client() as client:
            upload_digits(client)
            job = wait_for(client, client.post("/v1/jobs", json=JOB).json()["id"])
            assert (job["state"], job["error"]["code"]) == ("failed", "crash_loop")
            other = JOB | {"calibration": {"method": "minmax", "max_images": 50}}
            assert wait_for(client, client.post("/v1/jobs", json=other).json()["id"])["state"] == "succeeded"
    finally:
        server.stop()


def test_api_killed_after_202(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).start()
    with server.client() as client:
        upload_digits(client)
        accepted = client.post("/v1/jobs", json=JOB)
        assert accepted.status_code == 202
        server.kill()
    server.start()
    try:
        with server.client() as client:
            job = wait_for(client, accepted.json()["id"])
            assert job["state"] == "succeeded"
            assert len(client.get("/v1/jobs").json()["items"]) == 1
    finally:
        server.stop()


def test_api_killed_during_an_upload(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).start()
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        head = f"PUT /v1/datasets/half HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {CALIBRATION.stat().st_size}\r\n\r\n"
        connection.sendall(head.encode() + CALIBRATION.read_bytes()[:100_000])
        _wait_until(lambda: any((tmp_path / "tmp").glob("upload-*/body")))
        server.kill()
    server.start()
    try:
        with server.client() as client:
            assert client.get("/v1/datasets/half").status_code == 404
            assert not list((tmp_path / "tmp").glob("upload-*"))
            assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
            assert client.put("/v1/datasets/half", content=CALIBRATION.read_bytes()).status_code == 201
    finally:
        server.stop()


def test_no_child_outlives_a_killed_server(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).start()
    assert server.process is not None
    with server.client() as client:
        upload_digits(client)
        client.post("/v1/jobs", json=JOB)
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert family
    server.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_stopped_server_gives_its_job_back_and_goes_on_later(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).start()
    with server.client() as client:
        upload_digits(client)
        job_id = client.post("/v1/jobs", json=JOB | {"calibration": {"method": "entropy"}}).json()["id"]
        _wait_until(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "running")
    assert server.stop() == 0
    server.url = ""
    server.start()
    try:
        with server.client() as client:
            assert wait_for(client, job_id)["state"] == "succeeded"
    finally:
        assert server.stop() == 0


def test_fifty_clients_submit_one_job(tmp_path: Path) -> None:
    server = RunningServer(tmp_path).start()
    try:
        with server.client() as client:
            upload_digits(client)
            answers: list[httpx.Response] = []
            threads = [
                threading.Thread(target=lambda: answers.append(httpx.post(f"{server.url}/v1/jobs", json=JOB, timeout=60)))
                for _ in range(50)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert {answer.status_code for answer in answers} <= {200, 202}
            live = {answer.json()["id"] for answer in answers if answer.status_code == 202}
            assert len(live) == 1
            assert sum(not answer.json()["joined"] for answer in answers if answer.status_code == 202) == 1
            assert wait_for(client, live.pop())["state"] == "succeeded"
            assert len(client.get("/v1/tables").json()["items"]) == 1
    finally:
        server.stop()


def _wait_until(holds: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)
