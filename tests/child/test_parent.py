"""Throw-away processes: what they answer, how they die, and that the parent lives on."""

import asyncio
import os
import signal
import socket
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.child import main as child_main
from app.child.parent import ChildCall, run_child
from app.errors import ModelInspectionLimit, ModelUnsupportedOp, Problem, StepTimeout, WorkerOom, WorkerProblem


@pytest.fixture(autouse=True)
def _tests_are_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    # The children under test live among the tests; a real child runs functions of `app` alone (see the last test).
    source = Path(__file__).parent / "run_fault.py"
    monkeypatch.setattr("app.child.parent.CHILD_MODULE", ["-c", source.read_text(encoding="utf-8")])


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
    for _ in range(50):
        if not psutil.pid_exists(own) or psutil.Process(own).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    os.kill(own, signal.SIGKILL)
    pytest.fail("it lives on")


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
