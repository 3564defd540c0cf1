"""The team mode for real: API and worker apart, Postgres, an S3-compatible store, tokens."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_kills import JOB, wait_for
from tests.running import ROOT, RunningServer, upload_digits
from tests.services import S3_KEYS, running_postgres, running_s3

TOKEN = "the-token-of-this-team-test"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """An API without a worker of its own, on Postgres and S3."""
    folder = tmp_path_factory.mktemp("team")
    s3_folder = folder / "s3"
    s3_folder.mkdir()
    with running_postgres(folder / "postgres") as database_url, running_s3(s3_folder) as endpoint:
        environment = S3_KEYS | {
            "ENGINESMITH_DATABASE_URL": database_url,
            "ENGINESMITH_BLOB_URL": "s3://enginesmith/blobs",
            "ENGINESMITH_S3_ENDPOINT": endpoint,
            "ENGINESMITH_TOKENS": TOKEN,
        }
        server = RunningServer(folder / "api", "--no-worker", **environment).start(ready=False)
        yield server
        server.stop()


@pytest.fixture
def worker(team: RunningServer, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker on another data folder, as on another host."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENGINESMITH_")}
    own = {name: value for name, value in team.environment.items() if name != "ENGINESMITH_TOKENS"}
    command = [sys.executable, "-m", "app", "worker", "--data", str(tmp_path / "worker")]
    process = subprocess.Popen(command, env=environment | own, cwd=ROOT)
    yield process
    process.terminate()
    assert process.wait(60) == 0


def test_job_waits_for_a_worker_and_runs_there(team: RunningServer, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with team.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        upload_digits(client)
        assert client.post("/v1/jobs", json=JOB).json()["code"] == "worker-unavailable"
        lost = client.post("/v1/jobs", json=JOB | {"wait_for_worker_seconds": 1}).json()
        ended = wait_for(client, lost["id"])
        assert (ended["state"], ended["error"]["code"]) == ("failed", "worker_unavailable")
        waiting = client.post("/v1/jobs", json=JOB | {"wait_for_worker_seconds": 120})
        assert waiting.status_code == 202
        request.getfixturevalue("worker")
        job = wait_for(client, waiting.json()["id"])
        assert (job["state"], job["error"]) == ("succeeded", None)
        plan = client.get(f"/v1/engines/{job['engine_id']}/plan")
        assert hashlib.sha256(plan.content).hexdigest() == plan.headers["etag"].strip('"')
        hit = client.post("/v1/jobs", json=JOB)
        assert (hit.status_code, hit.json()["cache"]["engine"]) == (200, "hit")
    assert not [path for path in (team.data / "tmp").rglob("*") if path.is_file() and "blobs" not in path.parts]


def test_blobs_are_in_the_bucket(team: RunningServer) -> None:
    assert not (team.data / "blobs").exists()
    with httpx.Client(base_url=team.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.get("/readyz").status_code == 200
