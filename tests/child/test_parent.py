"""Throw-away processes: what they answer, how they die, and that the parent lives on."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.child import main as child_main
from app.child.parent import ChildCall, run_child
from app.child.process import end_group
from app.errors import (
    ModelInspectionLimit,
    ModelUnsupportedOp,
    Problem,
    SpecProblem,
    StepTimeout,
    WorkerCrashed,
    WorkerOom,
    WorkerProblem,
    problem_from_json,
)


@pytest.fixture(autouse=True)
def _tests_are_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    # The children under test live among the tests; a real child runs functions of `app` alone (see the last test).
    source = Path(__file__).parent / "run_fault.py"
    monkeypatch.setattr("app.child.process.CHILD_MODULE", ["-c", source.read_text(encoding="utf-8")])


def call(name: str, request: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    chosen = {"stage": "test", "timeout_seconds": 30.0} | options
    return asyncio.run(run_child(ChildCall(f"tests.child.faults:{name}", request or {}, **chosen)))


def children() -> set[int]:
    return {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}


def test_answer_and_empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINESMITH_TOKENS", "a-secret-that-no-child-may-see")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    answer = call("answer", {"x": [1, None, "ä"]})
    assert answer["echo"] == {"x": [1, None, "ä"]}
    assert not {"ENGINESMITH_TOKENS", "AWS_SECRET_ACCESS_KEY"} & set(answer["environment"])


def test_no_collection_looks_at_what_was_loaded() -> None:
    assert call("count_tracked")["objects"] < 1000  # pydantic alone has more


def test_no_distribution_is_searched_for_plugins(tmp_path: Path) -> None:
    offered = tmp_path / "outside-1.0.dist-info"
    offered.mkdir()
    (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (offered / "entry_points.txt").write_text("[pydantic]\noutside = plugin_from_outside:plugin\n")
    code = "class plugin:\n    def new_schema_validator(*_):\n        return None, None, None\n"
    (tmp_path / "plugin_from_outside.py").write_text(code)
    assert call("make_model", {"folder": str(tmp_path)}) == {"loaded": False}


def test_problem_arrives_as_itself_and_printable() -> None:
    with pytest.raises(ModelUnsupportedOp) as caught:
        call("problem")
    assert caught.value.facts["op"] == "Magic\\x0a\\x1b[31m"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE])
def test_signals_are_named(number: signal.Signals) -> None:
    with pytest.raises(WorkerProblem, match=number.name):
        call("crash", {"signal": int(number)})


def test_real_segmentation_fault() -> None:
    with pytest.raises(WorkerProblem, match="SIGSEGV"):
        call("segfault")


def test_killed_child_counts_as_out_of_memory() -> None:
    with pytest.raises(WorkerOom):
        call("crash", {"signal": int(signal.SIGKILL)})


def test_memory_limit_holds() -> None:
    with pytest.raises(ModelInspectionLimit):
        call("grow", memory_bytes=4 << 30)


def test_hanging_child_is_ended() -> None:
    before = children()
    with pytest.raises(StepTimeout):
        call("hang", timeout_seconds=1.0)
    assert children() == before


@pytest.mark.parametrize("hangs", [True, False])
def test_what_a_child_started_ends_with_it(hangs: bool) -> None:
    told: list[dict[str, Any]] = []
    one = ChildCall("tests.child.faults:hang_with_a_child", {"hangs": hangs}, "test", 5.0)
    with pytest.raises(StepTimeout) if hangs else nullcontext():
        asyncio.run(run_child(one, told.append))
    (own,) = (int(event["log"]) for event in told)
    assert has_ended(own)


@pytest.mark.parametrize("how", ["command", "fork"])
def test_a_crash_is_noticed_while_what_the_child_started_lives(how: str) -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        asyncio.run(run_child(ChildCall("tests.child.faults:crash_with_a_child", {"how": how}, "test", 10.0), told.append))
    (own,) = (int(event["log"]) for event in told)
    assert has_ended(own)


def test_what_left_the_session_with_the_pipes_is_not_waited_for() -> None:
    told: list[dict[str, Any]] = []
    one = ChildCall("tests.child.faults:crash_with_a_child", {"how": "session"}, "test", 10.0)
    try:
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            asyncio.run(run_child(one, told.append))
    finally:
        for event in told:
            os.kill(int(event["log"]), signal.SIGKILL)


def test_half_a_line_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """import os, sys; sys.stdin.read(); print('{"result": ', end="", flush=True); os.kill(os.getpid(), 9)"""
    monkeypatch.setattr("app.child.process.CHILD_MODULE", ["-c", code])
    with pytest.raises(WorkerOom):
        call("answer")


def test_a_group_of_somebody_else_is_left_alone() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleep, start_new_session=True) as stranger:
        collected = subprocess.Popen([sys.executable, "-c", ""])
        collected.wait()
        collected.pid = stranger.pid  # its number was given to another session since
        end_group(collected)
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.3)
        end_group(stranger)
        assert stranger.wait(5) == -signal.SIGKILL


def test_a_group_that_may_not_be_killed_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    assert call("answer", {"x": 1})["echo"] == {"x": 1}
    with pytest.raises(WorkerProblem, match="code 3"):
        call("leave")


def has_ended(pid: int) -> bool:
    """Return whether a process ends within 5 seconds; one that does not is killed."""
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def test_what_watch_raises_ends_the_child() -> None:
    def stop() -> None:
        raise KeyError("stop")

    before = children()
    with pytest.raises(KeyError):
        asyncio.run(run_child(ChildCall("tests.child.faults:hang", {}, "test", 30.0), watch=stop))
    assert children() == before


def test_exit_without_an_answer() -> None:
    with pytest.raises(WorkerProblem, match="code 3"):
        call("leave")


def test_child_reaches_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = call("reach_out", {"port": listener.getsockname()[1]})["refused"]
    if refused is None:
        pytest.skip("this kernel allows no new network namespace here")
    assert refused in ("OSError", "ConnectionRefusedError", "TimeoutError")


def test_child_runs_functions_of_the_app_alone() -> None:
    for target in ("os:system", "tests.child.faults:answer", "application:x"):
        with pytest.raises(Problem):
            child_main.find_function(target)


def test_packages_that_the_parent_finds_are_found_by_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["site", ""]))
    (tmp_path / "work").mkdir()
    path = call("path", folder=tmp_path / "work")["path"]
    assert str(tmp_path / "site") in path
    assert not {"", ".", "site", str(tmp_path / "work")} & set(path)  # a job's folder holds files that users name


def test_a_problem_comes_back_as_the_class_that_others_are_kinds_of() -> None:
    back = problem_from_json(SpecProblem(reason="x").to_json())
    assert (type(back), back.detail) == (SpecProblem, SpecProblem(reason="x").detail)
