"""Workers that are paused, cancelled or ahead of their time: only the holder of the fence writes, and nothing runs on."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_kills import JOB, wait_for
from tests.running import ROOT, TEST_DIGITS, RunningServer, upload_digits

_SLOW = {"model": "digits", "dataset": "many", "calibration": {"observe": "all", "grid": "tensorrt"}}


def wait_until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Return when it holds; fail after so many seconds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def worker_of(server: RunningServer) -> psutil.Process:
    assert server.process is not None
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def steps_of(server: RunningServer) -> list[psutil.Process]:
    """Return the processes that work on a job, in its folder; the spare one waits elsewhere."""
    steps = []
    for child in worker_of(server).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if (server.data / "tmp") in Path(child.cwd()).parents:
                steps.append(child)
    return steps


@pytest.fixture
def own_server(tmp_path: Path) -> "RunningServer":
    timing = {"ENGINESMITH_DEAD_AFTER_SECONDS": "2", "ENGINESMITH_HEARTBEAT_SECONDS": "0.4"}
    return RunningServer(tmp_path / "data", **timing)


def test_cancel_ends_the_running_child(own_server: RunningServer) -> None:
    server = own_server.start()
    try:
        with server.client() as client:
            upload_digits(client)
            client.put("/v1/datasets/many", content=TEST_DIGITS.read_bytes())
            job_id = client.post("/v1/jobs", json=_SLOW).json()["id"]
            wait_until(lambda: steps_of(server))
            assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
            wait_until(lambda: not steps_of(server), seconds=10)
            wait_until(lambda: not list((server.data / "tmp").glob("worker-*/job_*")), seconds=10)
            assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
            assert wait_for(client, client.post("/v1/jobs", json=JOB).json()["id"])["state"] == "succeeded"
    finally:
        server.stop()


def pause_between_transactions(server: RunningServer, worker: psutil.Process) -> bool:
    """Stop a worker and say whether it holds no lock on the database; else let it go on, for nobody could write."""
    worker.send_signal(signal.SIGSTOP)
    for name in ("app.db", "jobs.db"):
        with closing(sqlite3.connect(server.data / name, timeout=0.2, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
            except sqlite3.OperationalError:
                worker.send_signal(signal.SIGCONT)
                return False
    return True


def test_paused_worker_can_write_nothing_afterwards(own_server: RunningServer) -> None:
    server = own_server.start()
    paused = worker_of(server)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENGINESMITH_")}
    command = [sys.executable, "-m", "app", "worker", "--data", str(server.data)]
    other = None
    try:
        with server.client() as client:
            upload_digits(client)
            job_id = client.post("/v1/jobs", json=JOB).json()["id"]
            wait_until(lambda: steps_of(server))
            wait_until(lambda: pause_between_transactions(server, paused))
            other = subprocess.Popen(command, env=environment | server.environment, cwd=ROOT)
            job = wait_for(client, job_id)
            assert (job["state"], job["attempt"]) == ("succeeded", 2)
            paused.send_signal(signal.SIGCONT)
            time.sleep(2)
            assert client.get(f"/v1/jobs/{job_id}").json() == job
            assert len(client.get("/v1/tables").json()["items"]) == 1
            assert len(client.get("/v1/engines").json()["items"]) == 1
    finally:
        paused.send_signal(signal.SIGCONT)
        if other is not None:
            other.terminate()
            assert other.wait(60) == 0
        server.stop()


def test_job_before_the_worker_is_up_waits_for_it(own_server: RunningServer) -> None:
    server = own_server.start(ready=False)
    try:
        with server.client() as client:
            upload_digits(client)
            response = client.post("/v1/jobs", json=JOB)
            assert response.status_code == 202, response.text
            assert wait_for(client, response.json()["id"])["state"] == "succeeded"
    finally:
        server.stop()


def test_ctrl_c_stops_the_server_and_its_worker(own_server: RunningServer) -> None:
    server = own_server.start()
    worker = worker_of(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    psutil.wait_procs([worker], timeout=5)
    assert not worker.is_running()


def test_crashing_step_is_tried_again_and_again_but_not_for_ever(own_server: RunningServer) -> None:
    server = own_server.start()
    try:
        with server.client() as client:
            upload_digits(client)
            client.put("/v1/datasets/many", content=TEST_DIGITS.read_bytes())
            job_id = client.post("/v1/jobs", json=_SLOW).json()["id"]
            for _ in range(3):
                wait_until(lambda: steps_of(server))
                for step in steps_of(server):
                    step.send_signal(signal.SIGSEGV)
                    step.wait(10)
            job = wait_for(client, job_id)
            assert (job["state"], job["error"]["code"], job["attempt"]) == ("failed", "crash_loop", 1)
            assert "SIGSEGV" in client.get(f"/v1/jobs/{job_id}/events").text
            assert wait_for(client, client.post("/v1/jobs", json=JOB).json()["id"])["state"] == "succeeded"
    finally:
        server.stop()


@pytest.mark.parametrize("stage", ["observe", "build", "judge"])
@pytest.mark.parametrize("who", ["server", "worker"])
def test_stop_in_a_stage_gives_the_job_back_without_counting(tmp_path: Path, stage: str, who: str) -> None:
    # One crash would end the job here, so its success shows that a stop is none.
    server = RunningServer(tmp_path / "data", ENGINESMITH_MAX_CRASHES="1").start()
    try:
        with server.client() as client:
            upload_digits(client)
            client.put("/v1/datasets/many", content=TEST_DIGITS.read_bytes())
            judged = JOB | {"dataset": "many", "calibration": {"method": "minmax"}, "judge": {"images": 1500}}
            job_id = client.post("/v1/jobs", json=judged).json()["id"]
            wait_until(lambda: client.get(f"/v1/jobs/{job_id}").json()["stage"] == stage)
            if who == "worker":
                worker_of(server).terminate()
        if who == "server":
            assert server.stop() == 0
            server.url = ""
            server.start()
        with server.client() as client:
            job = wait_for(client, job_id)
            assert (job["state"], job["error"]) == ("succeeded", None)
    finally:
        server.stop()


def test_second_server_on_one_data_folder_is_refused(own_server: RunningServer) -> None:
    server = own_server.start()
    try:
        with server.client() as client:
            upload_digits(client)
            job_id = client.post("/v1/jobs", json=JOB).json()["id"]
            command = [sys.executable, "-m", "app", "serve", "--data", str(server.data), "--port", "0"]
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            assert second.returncode == 2
            assert "another server uses this data folder" in second.stderr
            assert wait_for(client, job_id)["state"] == "succeeded"
    finally:
        server.stop()


def test_jobs_in_the_queue_outlive_a_restart(own_server: RunningServer) -> None:
    server = own_server.start()
    with server.client() as client:
        upload_digits(client)
        specs = [JOB | {"calibration": {"method": "minmax", "max_images": images}} for images in (300, 301, 302)]
        ids = [client.post("/v1/jobs", json=spec).json()["id"] for spec in specs]
    server.kill()
    time.sleep(3)  # the dead worker's heartbeat is too old by now: for a while nobody serves the queue
    server.start(ready=False)
    try:
        with server.client() as client:
            ended = [wait_for(client, job_id) for job_id in ids]
        assert [(job["state"], job["error"]) for job in ended] == [("succeeded", None)] * 3
    finally:
        server.stop()
