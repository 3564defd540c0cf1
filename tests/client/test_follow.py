"""A job's events through broken connections."""

import json
from collections.abc import Mapping

import pytest

from app.client import Client, ServerProblem, Unreachable
from app.client.events import Event
from tests.client.scripted import answer, scripted_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


def stream(*events: tuple[int, str, Mapping[str, object]], ends: bool = True) -> bytes:
    text = "".join(f"id: {number}\r\nevent: {kind}\r\ndata: {json.dumps(body)}\r\n\r\n" for number, kind, body in events)
    chunk = f"{len(text.encode()):x}\r\n{text}\r\n".encode() if text else b""
    return HEAD + chunk + (b"0\r\n\r\n" if ends else b"")


def job(state: str) -> bytes:
    return answer("200 OK", json.dumps({"id": "job_1", "state": state}).encode())


STAGE = (3, "stage", {"stage": "observe"})
DONE = (9, "done", {"state": "succeeded"})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.client.follow._PAUSE_SECONDS", 0.01)


def test_events_end_with_done() -> None:
    with scripted_server(stream(STAGE, DONE), job("succeeded")) as server, Client(server.url) as client:
        seen: list[Event] = []
        assert client.wait("job_1", seen.append)["state"] == "succeeded"
    assert [event.kind for event in seen] == ["stage", "done"]


def test_a_broken_stream_is_resumed_after_the_last_event() -> None:
    answers = (stream(STAGE, ends=False), BUSY, stream(DONE))
    with scripted_server(*answers) as server, Client(server.url) as client:
        assert [event.kind for event in client.events("job_1")] == ["stage", "done"]
    assert "last-event-id" not in server.requests[0]
    assert "last-event-id: 3" in server.requests[1]
    assert "last-event-id: 3" in server.requests[2]


BUSY = answer("503 Service Unavailable", b'{"detail": "starting"}')


def test_a_stream_that_ends_early_is_opened_again_while_the_job_lives() -> None:
    answers = (stream(STAGE), job("running"), stream(DONE))
    with scripted_server(*answers) as server, Client(server.url) as client:
        assert [event.kind for event in client.events("job_1")] == ["stage", "done"]


def test_a_job_that_ended_without_a_word_ends_the_stream() -> None:
    with scripted_server(stream(), job("cancelled")) as server, Client(server.url) as client:
        assert list(client.events("job_1")) == []


def test_a_job_that_is_not_there_is_said_at_once() -> None:
    gone = answer("404 Not Found", b"{}")
    with scripted_server(gone) as server, Client(server.url) as client, pytest.raises(ServerProblem):
        list(client.events("job_1"))


def test_a_server_that_never_answered_is_unreachable_at_once() -> None:
    with scripted_server() as server:
        pass
    with Client(server.url) as client, pytest.raises(Unreachable):
        list(client.events("job_1"))


def test_patience_with_a_lost_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.client.follow._PATIENCE_SECONDS", 0.2)
    with scripted_server(stream(STAGE, ends=False)) as server, Client(server.url) as client, pytest.raises(Unreachable):
        list(client.events("job_1"))
