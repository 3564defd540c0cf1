"""What a client is told of an engine that does not load where it wants to run it; the GPUs need not be there."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.db import jobs, workers
from app.db.database import Database
from app.db.rows import EngineRow, JobRow, new_id
from app.resolved import ResolvedJob, ResolvedModel
from app.spec import JobSpec
from tests.jobs.test_routing import worker_row
from tests.running import MODEL, RunningServer
from tests.worker.gpu_worker import TOOLS

PLAN: dict[str, Any] = {
    "backend": "tensorrt", "version": "10.6.0", "compute_capability": ["9.0"], "driver_floor": "525.60.13", "gpu": "H200",
    "version_compatible": False, "hardware_compatible": False,
}  # fmt: skip
RTX = {"backend": "tensorrt-rtx", "version": "1.7.1", "compute_capability": ["8.6", "8.9"], "driver_floor": None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("server"), ENGINESMITH_WORKER="false").start(ready=False)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        client.put("/v1/models/digits", content=MODEL.read_bytes())
        yield client


def store_engine(server: RunningServer, http: httpx.Client, facts: dict[str, Any]) -> str:
    """Store an fp16 engine of the digits CNN with these facts, and the job that built it; return its id."""
    document = http.get("/v1/models/digits").json()
    engine = {"backend": facts["backend"], "precision": "fp16", "compute_capability": facts["compute_capability"]}
    spec = JobSpec.model_validate({"model": "digits", "calibration": None, "engine": engine})
    model = ResolvedModel(id=document["id"], name="digits", digest=document["digest"], files=(), inputs=())
    resolved = ResolvedJob(spec=spec, model=model, dataset=None, judge_dataset=None, tools=TOOLS)
    row = EngineRow(
        id=new_id("eng"), key=new_id("key"), model_id=document["id"], table_id=None, backend=facts["backend"], precision="fp16",
        facts=facts, plan="0" * 64, plan_bytes=1,
    )  # fmt: skip
    job = JobRow(
        id=new_id("job"), key=new_id("key"), state="succeeded", queue="trt", priority=1, attempt=1, crashes=0, cache={},
        resolved=resolved.model_dump(mode="json"), warnings=[], progress_done=0, engine_id=row.id, created_at=jobs.now(),
    )  # fmt: skip
    engine_id = row.id
    database = Database(f"sqlite:///{server.data}/app.db")
    with database.transaction() as session:
        session.add(row)
        session.flush()
        session.add(job)
    database.close()
    return engine_id


def test_another_gpu_or_version_gets_a_link_that_asks_for_it(server: RunningServer, http: httpx.Client) -> None:
    engine = store_engine(server, http, PLAN)
    asked = {"compute_capability": "8.6", "tensorrt_version": "10.13"}
    refused = http.get(f"/v1/engines/{engine}/plan", params=asked)
    assert (refused.status_code, refused.json()["code"]) == (409, "engine-target-mismatch")
    nobody = http.post(refused.json()["rebuild"])
    assert (nobody.status_code, nobody.json()["code"]) == (422, "worker-unavailable")
    assert "tensorrt 10.13 fp16 explicit for compute capability 8.6" in nobody.json()["detail"]
    waiting = http.post(refused.json()["rebuild"], params={"wait_for_worker_seconds": 60} | asked)
    assert waiting.status_code == 202
    assert waiting.json()["spec"]["engine"]["compute_capability"] == ["8.6"]
    assert waiting.json()["spec"]["engine"]["tensorrt_version"] == "10.13"
    http.post(f"/v1/jobs/{waiting.json()['id']}/cancel")


def test_a_plan_of_tensorrt_rtx_is_rebuilt_with_tensorrt_where_that_is_asked_for(
    server: RunningServer, http: httpx.Client
) -> None:
    engine = store_engine(server, http, RTX)
    refused = http.get(f"/v1/engines/{engine}/plan", params={"tensorrt_version": "10.6"})
    assert (refused.status_code, refused.json()["code"]) == (409, "engine-target-mismatch")
    waiting = http.post(refused.json()["rebuild"], params={"tensorrt_version": "10.6", "wait_for_worker_seconds": 60})
    assert waiting.status_code == 202, waiting.json()
    built = waiting.json()["spec"]["engine"]
    assert (built["backend"], built["tensorrt_version"], built["compute_capability"]) == ("tensorrt", "10.6", None)
    http.post(f"/v1/jobs/{waiting.json()['id']}/cancel")


def test_an_old_driver_is_not_sent_to_a_rebuild_that_gives_the_same_plan(server: RunningServer, http: httpx.Client) -> None:
    engine = store_engine(server, http, PLAN)
    refused = http.get(f"/v1/engines/{engine}/plan", params={"compute_capability": "9.0", "driver": "470.57.02"})
    assert (refused.status_code, refused.json()["code"]) == (409, "engine-target-mismatch")
    assert refused.json()["rebuild"] is None
    assert "525.60.13" in refused.json()["detail"]
    assert "newer driver" in refused.json()["detail"]


def test_a_rebuild_goes_to_the_worker_that_can(server: RunningServer, http: httpx.Client) -> None:
    engine = store_engine(server, http, PLAN)
    database = Database(f"sqlite:///{server.data}/app.db")
    ampere = worker_row("10.6.0", "8.6")
    worker_id = ampere.id

    with database.transaction() as session:
        workers.beat(session, ampere)
    sent = http.post(f"/v1/engines/{engine}/rebuild", params={"compute_capability": "8.6"})
    assert (sent.status_code, sent.json()["queue"]) == (202, "trt10.6-sm86")
    http.post(f"/v1/jobs/{sent.json()['id']}/cancel")
    with database.transaction() as session:
        workers.remove_worker(session, worker_id)
    database.close()
