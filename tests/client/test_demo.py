"""enginesmith demo, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from app.client.embedded import running_server
from app.client.problems import ClientProblem
from tests.running import ROOT


def start(*options: str) -> "subprocess.Popen[str]":
    """Start the demo beside another server's settings, which it must not take."""
    environment = os.environ | {"ENGINESMITH_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none", "COLUMNS": "200"}
    command = [sys.executable, "-m", "app", "demo", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def servers_of(data: Path) -> list[psutil.Process]:
    """Return the processes that still work in the folder."""
    return [each for each in psutil.process_iter(["cmdline"]) if any(str(data) in part for part in each.info["cmdline"] or ())]


def test_the_demo_shows_every_method_and_then_the_hit(tmp_path: Path) -> None:
    process = start("--json", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    shown = json.loads(printed)
    rows = {(row["backend"], row["method"]): row for row in shown["runs"]}
    assert {method for backend, method in rows if backend == "onnxruntime"} == {"minmax", "entropy", "percentile"}
    for row in shown["runs"]:
        assert Path(row["plan"]).stat().st_size == row["plan_bytes"] > 10_000
    best = rows["onnxruntime", "minmax"]
    assert best["accuracy_fp32"] == pytest.approx(0.97, abs=0.01)
    assert best["accuracy_int8"] > 0.95
    assert rows["onnxruntime", "entropy"]["found"] == "observation"
    assert shown["again"]["found"] == "observation, table, engine"
    assert shown["again"]["seconds"] < 1
    assert (tmp_path / "out" / "digits-minmax-table.cache").read_text().startswith("TRT-100600-")
    assert servers_of(tmp_path / "data") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_server_outlives_the_demo(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert process.stderr is not None
    while "server ready" not in process.stderr.readline():
        assert process.poll() is None
    assert servers_of(tmp_path / "data")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    until = time.monotonic() + 10
    while servers_of(tmp_path / "data") and time.monotonic() < until:
        time.sleep(0.1)
    assert servers_of(tmp_path / "data") == []


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "app.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(ClientProblem, match=r"server\.log ends"), running_server(data):
        pass
