"""Downloads through broken connections."""

import hashlib
import json
from pathlib import Path

import pytest

from app.client import Client, DownloadDamaged, LocalProblem, ServerProblem, Unreachable
from tests.client.scripted import answer, scripted_server

PLAN = bytes(range(256)) * 64
DIGEST = hashlib.sha256(PLAN).hexdigest()
ETAG = f'ETag: "{DIGEST}"'
ENGINE = answer("200 OK", json.dumps({"id": "eng_1", "digest": DIGEST}).encode())
WHOLE = answer("200 OK", PLAN, ETAG)


def partial(start: int, end: int = len(PLAN)) -> bytes:
    headers = (ETAG, f"Content-Range: bytes {start}-{len(PLAN) - 1}/{len(PLAN)}")
    return answer("206 Partial Content", PLAN[start:end], *headers, length=len(PLAN) - start)


def test_a_plan_arrives_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with scripted_server(ENGINE, WHOLE) as server, Client(server.url) as client:
        client.download_plan("eng_1", tmp_path / "p.plan", lambda *told: seen.append(told))
    assert (tmp_path / "p.plan").read_bytes() == PLAN
    assert seen[-1] == (len(PLAN), len(PLAN))
    assert [path.name for path in tmp_path.iterdir()] == ["p.plan"]


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cut = answer("200 OK", PLAN[:5000], ETAG, length=len(PLAN))
    with scripted_server(ENGINE, cut, partial(5000, 9000), partial(9000)) as server, Client(server.url) as client:
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").read_bytes() == PLAN
    assert "range: bytes=5000-" in server.requests[2]
    assert f'if-range: "{DIGEST}"' in server.requests[2]
    assert "range: bytes=9000-" in server.requests[3]


def test_a_later_run_goes_on_too(tmp_path: Path) -> None:
    (tmp_path / f".p.plan.{DIGEST[:16]}.part").write_bytes(PLAN[:100])
    with scripted_server(ENGINE, partial(100)) as server, Client(server.url) as client:
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").read_bytes() == PLAN


def test_a_server_without_ranges_sends_it_again(tmp_path: Path) -> None:
    (tmp_path / f".p.plan.{DIGEST[:16]}.part").write_bytes(b"old")
    with scripted_server(ENGINE, WHOLE) as server, Client(server.url) as client:
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").read_bytes() == PLAN


def test_a_complete_part_is_only_checked(tmp_path: Path) -> None:
    (tmp_path / f".p.plan.{DIGEST[:16]}.part").write_bytes(PLAN)
    refused = answer("416 Range Not Satisfiable", b"{}")
    with scripted_server(ENGINE, refused) as server, Client(server.url) as client:
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").read_bytes() == PLAN


def test_wrong_bytes_are_never_kept(tmp_path: Path) -> None:
    (tmp_path / "p.plan").write_bytes(b"the plan of before")
    wrong = answer("200 OK", b"x" + PLAN[1:], ETAG)
    with scripted_server(ENGINE, wrong) as server, Client(server.url) as client, pytest.raises(DownloadDamaged):
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert (tmp_path / "p.plan").read_bytes() == b"the plan of before"
    assert [path.name for path in tmp_path.iterdir()] == ["p.plan"]


def test_another_etag_is_refused_before_the_bytes(tmp_path: Path) -> None:
    other = answer("200 OK", PLAN, f'ETag: "{"0" * 64}"')
    with scripted_server(ENGINE, other) as server, Client(server.url) as client, pytest.raises(DownloadDamaged):
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_stays_away_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.client.download._PAUSE_SECONDS", 0.01)
    cut = answer("200 OK", PLAN[:5000], ETAG, length=len(PLAN))
    with scripted_server(ENGINE, cut) as server, Client(server.url) as client, pytest.raises(Unreachable):
        client.download_plan("eng_1", tmp_path / "p.plan")
    assert not (tmp_path / "p.plan").exists()


def test_a_problem_is_passed_on(tmp_path: Path) -> None:
    gone = answer("404 Not Found", b'{"code": "not-found", "detail": "There is no engine."}')
    with scripted_server(ENGINE, gone) as server, Client(server.url) as client, pytest.raises(ServerProblem):
        client.download_plan("eng_1", tmp_path / "p.plan")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with scripted_server(ENGINE, WHOLE) as server, Client(server.url) as client, pytest.raises(LocalProblem, match="none"):
        client.download_plan("eng_1", tmp_path / "none" / "p.plan")
