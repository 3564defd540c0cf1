"""Who may come in, and how the server answers what it does not know."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.errors import Problem, all_problems
from tests.api.test_uploads import assert_problem
from tests.running import ROOT, RunningServer

TOKEN = "a-token-for-this-test-only"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_foreign_pages_are_refused_on_loopback(http: httpx.Client, headers: dict[str, str]) -> None:
    assert_problem(http.get("/v1/models", headers=headers), 403, "forbidden")
    assert_problem(http.post("/v1/jobs", json={}, headers=headers), 403, "forbidden")


def test_own_page_is_let_in(http: httpx.Client, server: RunningServer) -> None:
    assert http.get("/v1/models", headers={"Origin": server.url, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_unknown_addresses_and_methods(http: httpx.Client) -> None:
    assert_problem(http.get("/v1/nothing"), 404, "not-found")
    assert_problem(http.get("/v1/jobs/job_unknown"), 404, "not-found")
    assert_problem(http.get("/v1/tables/../../etc/passwd"), 404, "not-found")
    assert_problem(http.delete("/v1/models"), 405, "method-not-allowed")


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs", "tables", "engines", "nothing"])
def test_hints_name_addresses_that_exist(http: httpx.Client, kind: str) -> None:
    detail = str(assert_problem(http.get(f"/v1/{kind}/x"), 404, "not-found")["detail"])
    (address,) = re.findall(r"GET (/\S+)", detail)
    assert http.get(address).status_code == 200


def test_messages_name_addresses_that_exist(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    told = [
        hint for problem in all_problems() for hint in re.findall(r"\b(GET|POST|PUT|PATCH) (/[\w/.{}]+)", _message(problem))
    ]
    assert len(told) > 5
    known = {("GET", "/openapi.json"), ("GET", "/v1/{kind}s")}
    assert not [hint for hint in told if hint not in known and hint[0].lower() not in paths.get(hint[1].rstrip("."), {})]


def _message(problem: type[Problem]) -> str:
    return " ".join((problem.__doc__ or "").split())


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 100_000, b'{"model": NaN}', b"1" * 10_000, b'{"model": "\\ud800", "dataset": "d"}', b'"text"', b"\xff\xfe"],
    ids=["cut", "deep", "nan", "digits", "surrogate", "text", "bytes"],
)
def test_bad_json(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_huge_json(http: httpx.Client) -> None:
    body = json.dumps({"model": "m" * (2 << 20)}).encode()
    assert_problem(http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 413, "payload-too-large")


def test_tokens(tmp_path: Path) -> None:
    server = RunningServer(tmp_path, "--no-worker", ENGINESMITH_TOKENS=TOKEN).start(ready=False)
    try:
        with server.client() as client:
            assert client.get("/healthz").status_code == 200
            assert_problem(client.get("/v1/models"), 401, "unauthenticated")
            assert_problem(client.get("/metrics", headers={"Authorization": "Bearer wrong"}), 401, "unauthenticated")
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    finally:
        server.stop()
    assert TOKEN not in "".join(server.log)


def test_open_network_without_tokens_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "serve", "--host", "::", "--data", str(tmp_path / "data")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "ENGINESMITH_TOKENS" in ended.stderr
    assert not (tmp_path / "data" / "app.db").exists()


def test_health_limits_metrics_and_openapi(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    assert http.get("/limits").json()["inputs"]["archive_members"] > 0
    assert "enginesmith_workers 1.0" in http.get("/metrics").text
    document = http.get("/openapi.json").json()
    assert "JobSpec" in document["components"]["schemas"]
    worker = http.get("/v1/workers").json()["items"][0]
    assert worker["alive"]
    assert "cpu" in worker["capabilities"]
