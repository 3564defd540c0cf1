"""Problems, retries and what counts as unreachable, against a server that does as it is told."""

import hashlib
import json
import time
from pathlib import Path

import pytest

from app.client import Client, ClientProblem, ServerProblem, Unreachable
from app.client.transport import is_loopback
from tests.client.scripted import answer, scripted_server

JOB = json.dumps({"id": "job_1", "state": "queued"}).encode()
PROBLEM = json.dumps({"code": "service-unavailable", "status": 503, "detail": "Try again."}).encode()
BUSY = answer("503 Service Unavailable", PROBLEM, "Retry-After: 0", "Content-Type: application/problem+json")


def test_a_busy_server_is_asked_again() -> None:
    with scripted_server(BUSY, answer("429 Too Many", b"{}", "Retry-After: 0"), answer("200 OK", JOB)) as server:
        with Client(server.url) as client:
            assert client.job("job_1")["state"] == "queued"
        assert len(server.requests) == 3


def test_the_server_says_when() -> None:
    with scripted_server(answer("503 Busy", PROBLEM, "Retry-After: 1"), answer("200 OK", JOB)) as server:
        began = time.monotonic()
        with Client(server.url) as client:
            client.job("job_1")
        assert 1 <= time.monotonic() - began < 4


def test_asking_again_ends() -> None:
    with scripted_server(*[BUSY] * 9) as server:
        with Client(server.url) as client, pytest.raises(ServerProblem, match="Try again") as caught:
            client.job("job_1")
        assert caught.value.status == 503
        assert len(server.requests) == 5


def test_an_upload_is_sent_whole_at_every_try(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model bytes")
    with scripted_server(BUSY, answer("201 Created", b'{"id": "mdl_1"}')) as server:
        with Client(server.url) as client:
            assert client.push_model(tmp_path / "m.onnx", "m") == {"id": "mdl_1"}
        assert [request.partition("\r\n\r\n")[2] for request in server.requests] == ["model bytes"] * 2
        assert f"x-content-sha256: {hashlib.sha256(b'model bytes').hexdigest()}" in server.requests[0]


def test_an_import_is_never_sent_twice(tmp_path: Path) -> None:
    (tmp_path / "t.cache").write_bytes(b"TRT-100600-EntropyCalibration2\n")
    with scripted_server(BUSY, BUSY) as server:
        with Client(server.url) as client, pytest.raises(ServerProblem):
            client.import_table(tmp_path / "t.cache", {"model": "m"})
        assert len(server.requests) == 1


def test_other_problems_are_not_tried_again() -> None:
    body = json.dumps({"code": "not-found", "status": 404, "detail": "There is no job x.", "kind": "job"}).encode()
    with scripted_server(answer("404 Not Found", body)) as server:
        with Client(server.url) as client, pytest.raises(ServerProblem) as caught:
            client.job("x")
        problem = caught.value
        assert (problem.code, problem.status, problem.detail) == ("not-found", 404, "There is no job x.")
        assert problem.document["kind"] == "job"


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"", b"[1]", b"\xff\xfe"])
def test_an_answer_that_is_no_problem_document_still_says_something(body: bytes) -> None:
    with scripted_server(answer("502 Bad Gateway", body)) as server:
        with Client(server.url) as client, pytest.raises(ServerProblem) as caught:
            client.job("x")
        assert caught.value.code == "http-502"
        assert "502" in str(caught.value)


def test_a_web_page_is_no_server_of_ours() -> None:
    page = answer("200 OK", b"<html>hello</html>")
    with scripted_server(page) as server, Client(server.url) as client, pytest.raises(ServerProblem, match="no Enginesmith"):
        client.job("x")


def test_a_closed_port_is_unreachable() -> None:
    with scripted_server() as server:
        pass
    with Client(server.url) as client, pytest.raises(Unreachable, match="enginesmith serve"):
        client.job("x")


def test_a_connection_that_breaks_is_unreachable() -> None:
    with scripted_server(b"") as server, Client(server.url) as client, pytest.raises(Unreachable):
        client.job("x")


@pytest.mark.parametrize("url", ["", "localhost", "ftp://host", "http://[::1", "http://host:99999", "http://"])
def test_a_bad_address_is_named_not_a_crash(url: str) -> None:
    with pytest.raises(ClientProblem):
        Client(url).job("x")


def test_the_token_is_sent_and_ids_cannot_leave_their_place() -> None:
    with scripted_server(answer("200 OK", b"{}")) as server:
        with Client(server.url, "secret-token") as client:
            client.job("../models?x=1")
        assert server.requests[0].startswith("get /v1/jobs/..%2fmodels%3fx%3d1 http/1.1\r\n")
        assert "authorization: bearer secret-token" in server.requests[0]


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://127.0.0.1:1", True), ("http://[::1]:1", True), ("http://localhost", True), ("http://10.0.0.1", False)],
)
def test_loopback_is_told_from_other_hosts(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_a_proxy_of_the_environment_does_not_hide_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with scripted_server(answer("200 OK", b"{}")) as server, Client(server.url) as client:
        assert client.job("x") == {}


def test_lists_follow_the_cursor() -> None:
    pages = [b'{"items": [{"id": 1}], "next": "c/1"}', b'{"items": [], "next": "c2"}', b'{"items": [{"id": 2}], "next": null}']
    with scripted_server(*(answer("200 OK", page) for page in pages)) as server:
        with Client(server.url) as client:
            assert [each["id"] for each in client.jobs("failed")] == [1, 2]
        heads = [request.partition(" http/1.1")[0] for request in server.requests]
        assert heads == [
            "get /v1/jobs?state=failed",
            "get /v1/jobs?state=failed&cursor=c%2f1",
            "get /v1/jobs?state=failed&cursor=c2",
        ]
