"""Processes that are started before their call: one waits, is given away once, and never outlives its worker."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.child.parent import ChildCall, Take, run_child, run_children
from app.child.process import Child, discard, start_child, wait_until_warm
from app.child.spare import Spare
from app.errors import ModelInspectionLimit
from app.native.heap import map_heap
from app.worker.context import WARM_UP

READY = "tests.child.faults:get_ready"


@pytest.fixture(autouse=True)
def _tests_are_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parent / "run_fault.py"
    monkeypatch.setattr("app.child.process.CHILD_MODULE", ["-c", source.read_text(encoding="utf-8")])


def call(name: str, take: Take, **options: Any) -> dict[str, Any]:
    chosen = {"stage": "test", "timeout_seconds": 30.0} | options
    return asyncio.run(run_child(ChildCall(f"tests.child.faults:{name}", {}, **chosen), take=take))


def until(is_so: Callable[[], Any]) -> Any:
    for _ in range(200):
        if found := is_so():
            return found
        time.sleep(0.05)
    raise TimeoutError


def waiting() -> set[int]:
    """Return the processes that this one started and that live."""
    children = psutil.Process().children()
    return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}


def test_calls_go_to_the_process_that_waits_and_each_has_its_own(tmp_path: Path) -> None:
    before = waiting()
    with Spare(READY) as spare:
        seen: list[int] = []
        for _ in range(3):
            (ready,) = until(lambda: waiting() - before)
            answer = call("who", spare.take, folder=tmp_path)
            assert answer == {"pid": ready, "folder": str(tmp_path)}
            seen.append(ready)
        assert len(set(seen)) == 3
    assert waiting() == before


def test_who_comes_while_it_starts_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_slowly(python: str, warm_up: str) -> Child:
        child = start_child(python, warm_up)
        time.sleep(1.0)
        return child

    monkeypatch.setattr("app.child.spare.start_child", start_slowly)
    before = waiting()
    with Spare(READY) as spare:
        (ready,) = until(lambda: waiting() - before)
        assert call("who", spare.take)["pid"] == ready


def test_who_comes_after_the_end_gets_none() -> None:
    before = waiting()
    with Spare(READY) as spare:
        until(lambda: waiting() - before)
    assert spare.take() is None
    assert waiting() == before


def test_one_that_could_not_start_is_tried_again() -> None:
    code = f"""
import os, resource, time
from app.child.process import discard
from app.child.spare import Spare
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), most))
with Spare({WARM_UP!r}) as spare:
    time.sleep(0.5)
    assert spare.take() is None
    time.sleep(0.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert spare.take() is None
    while (child := spare.take()) is None:
        time.sleep(0.1)
    discard(child)
"""
    root = Path(__file__).parent.parent.parent
    asked = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert asked.returncode == 0, asked.stderr
    assert "no spare process could be started" in asked.stdout
    assert "Too many open files" in asked.stdout


def test_of_calls_at_the_same_time_one_gets_it(tmp_path: Path) -> None:
    before = waiting()
    with Spare(READY) as spare:
        (ready,) = until(lambda: waiting() - before)
        calls = [ChildCall("tests.child.faults:who", {}, "test", 30.0, folder=tmp_path) for _ in range(3)]
        answers = asyncio.run(run_children(calls, lambda _number, _event: None, lambda: None, spare.take))
    pids = [answer["pid"] for answer in answers]
    assert pids[0] == ready
    assert len(set(pids)) == 3


def test_another_interpreter_gets_a_process_of_its_own(tmp_path: Path) -> None:
    before, python = waiting(), tmp_path / "python"
    python.symlink_to(sys.executable)
    with Spare(READY) as spare:
        (ready,) = until(lambda: waiting() - before)
        assert call("who", spare.take, python=str(python))["pid"] != ready
        assert waiting() - before == {ready}


def test_one_that_was_killed_is_replaced(capfd: pytest.CaptureFixture[str]) -> None:
    before = waiting()
    with Spare(READY) as spare:
        (ready,) = until(lambda: waiting() - before)
        os.kill(ready, signal.SIGKILL)
        until(lambda: ready not in waiting())
        assert call("who", spare.take)["pid"] != ready
        until(lambda: waiting() - before)
    assert "a spare process died" in capfd.readouterr().out


def test_a_warm_up_that_fails_costs_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Spare("tests.child.faults:fail_to_get_ready") as spare:
        for _ in range(2):
            until(lambda: any(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process().children()))
            assert call("who", spare.take)["pid"]
    assert "no warm-up here" in capfd.readouterr().out


def test_the_limits_of_a_call_hold() -> None:
    child = start_child(sys.executable, READY)
    wait_until_warm(child)
    with pytest.raises(ModelInspectionLimit):
        call("grow", lambda: child, memory_bytes=4 << 30)


def test_the_network_is_gone_before_the_warm_up(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HOME", str(listener.getsockname()[1]))
        child = start_child(sys.executable, "tests.child.faults:reach_out_to_get_ready")
        wait_until_warm(child)
        assert child.stderr is not None
        said = child.stderr.readline()
        discard(child)
    if said == b"None\n":
        pytest.skip("this kernel allows no new network namespace here")
    assert said in (b"OSError\n", b"ConnectionRefusedError\n", b"TimeoutError\n")


def test_it_outlives_the_thread_that_made_it_ready_but_not_the_process() -> None:
    code = f"""
import threading, time
from app.child.spare import Spare
spare = Spare({WARM_UP!r})
thread = threading.Thread(target=spare.__enter__)
thread.start()
thread.join()
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent.parent) as worker:
        (child,) = until(lambda: psutil.Process(worker.pid).children())
        time.sleep(1.5)  # what made it has ended long ago
        assert child.is_running()
        assert child.status() != psutil.STATUS_ZOMBIE
        worker.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_taking_is_safe_from_many_threads() -> None:
    taken: list[Child] = []

    def take(spare: Spare) -> None:
        for _ in range(20):
            if (child := spare.take()) is not None:
                taken.append(child)
            time.sleep(0.01)

    with Spare(READY) as spare:
        threads = [threading.Thread(target=take, args=(spare,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({child.pid for child in taken}) == len(taken) > 1
    for child in taken:
        discard(child)


def test_a_mapped_heap_is_used_again() -> None:
    code = """
import ctypes, resource
import numpy as np
from app.native.heap import map_heap
map_heap(16 << 20)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for size in (1 << 20, 2 << 20, 8 << 20):
    np.empty(size, np.uint8).fill(1)
print(faults() - before)
"""
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(asked.stdout) < 256, asked.stdout  # of 2,816 pages
    map_heap(1 << 20)
