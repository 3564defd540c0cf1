"""The command line without a server: what it understands, what it says, and how it exits."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.client.cli import globals_first, run_command
from app.client.options import grouped
from app.client.problems import ClientProblem, JobFailed, ServerProblem, Unreachable
from app.client.session import exit_code_from_job, exit_code_from_problem
from tests.client.scripted import answer, scripted_server


def closed_port() -> str:
    with scripted_server() as server:
        pass
    return server.url


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    said = capsys.readouterr().out
    names = ("serve", "worker", "demo", "push-model", "push-dataset", "calibrate", "build", "wait", "pull")
    assert [name for name in (*names, "table", "jobs", "models", "datasets", "workers") if f" {name} " not in said] == []


@pytest.mark.parametrize("group", [["build"], ["table"], ["jobs"], ["table", "import"], ["serve"], ["worker"], ["demo"]])
def test_every_command_has_help(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*group, "--help"]) == 0
    assert "Usage: enginesmith" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["build", "--nonsense"],
        ["build"],
        ["build", "m", "d", "--method", "nonsense"],
        ["build", "m", "d", "--batch-size", "x"],
        ["build", "m", "d", "--no-wait", "-o", "p"],
        ["build", "./none.onnx", "d"],
        ["push-model", "none.onnx"],
        ["push-model", __file__, "--name", "Not A Name"],
        ["table", "export", "tbl_x", "--format", "ort"],
        ["serve", "--port", "70000"],
        ["jobs", "list", "--limit", "0"],
        ["--server", "nonsense", "models"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_wrong_usage_is_json_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["build", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "usage"


@pytest.mark.parametrize("arguments", [["models"], ["build", "m", "d"], ["wait", "job_1"], ["pull", "eng_1"], ["jobs", "list"]])
def test_a_server_that_is_not_there_exits_with_4(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*arguments, "--server", closed_port()]) == 4
    assert "error: Cannot reach http://127.0.0.1:" in capsys.readouterr().err


def test_json_prints_one_document_when_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--json", "models", "--server", closed_port()]) == 4
    assert json.loads(capsys.readouterr().out)["code"] == "unreachable"


def test_the_environment_names_server_and_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_server(answer("200 OK", b'{"items": [], "next": null}')) as server:
        monkeypatch.setenv("ENGINESMITH_SERVER", server.url)
        monkeypatch.setenv("ENGINESMITH_TOKEN", "a-long-secret-token")
        assert run_command(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert "authorization: bearer a-long-secret-token" in server.requests[0]


def test_names_from_strangers_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    page = {"items": [{"name": "\x1b]0;owned\x07[red]x", "id": "mdl_1", "inputs": []}], "next": None}
    with scripted_server(answer("200 OK", json.dumps(page).encode())) as server:
        assert run_command(["models", "--server", server.url]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[red]x" in printed


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["jobs", "list", "--json"], ["--json", "jobs", "list"]),
        (["wait", "j", "--server", "u", "--token=t"], ["--server", "u", "--token=t", "wait", "j"]),
        (["pull", "--", "--json"], ["pull", "--", "--json"]),
        (["models", "--server"], ["--server", "models"]),
        ([], []),
    ],
)
def test_global_options_may_stand_anywhere(arguments: list[str], ordered: list[str]) -> None:
    assert globals_first(arguments) == ordered


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Unreachable("u", "r"), 4),
        (ServerProblem({}, 503), 4),
        (ServerProblem({}, 502), 4),
        (ServerProblem({}, 500), 1),
        (ServerProblem({}, 422), 2),
        (ServerProblem({}, 401), 2),
        (ClientProblem("x"), 2),
        (JobFailed({"id": "job_1", "state": "cancelled", "error": None}), 1),
    ],
)
def test_exit_codes_of_problems(problem: ClientProblem, code: int) -> None:
    assert exit_code_from_problem(problem) == code


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"state": "succeeded", "error": None}, 0),
        ({"state": "failed", "error": {"code": "gate_missed"}}, 3),
        ({"state": "failed", "error": {"code": "build_failed"}}, 1),
        ({"state": "cancelled", "error": None}, 1),
    ],
)
def test_exit_codes_of_jobs(job: dict[str, object], code: int) -> None:
    assert exit_code_from_job(job) == code


def test_starting_imports_nothing_heavy() -> None:
    heavy = ("onnx", "numba", "numpy", "fastapi", "sqlalchemy", "dbos", "onnxruntime", "PIL")
    script = f"import sys, app.client.cli; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_data_folder_that_cannot_be_is_said_in_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = run_process(command, "--data", str(tmp_path / "file"))
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "File exists" in ended.stderr


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_process("serve", "--data", str(tmp_path), "--port", str(port), "--no-worker")
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def run_process(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False)


def test_groups_keep_plain_functions_plain() -> None:
    @grouped
    def command(name: str, count: int = 2) -> str:
        return name * count

    assert command(name="a", count=3) == "aaa"
