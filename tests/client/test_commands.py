"""The commands against a real server and worker, as CI would call them."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from app.client.cli import run_command
from tests.client.test_client import digits
from tests.quant.test_equalize import uneven_net
from tests.running import CALIBRATION, MODEL, ROOT, RunningServer

__all__ = ["digits"]

QUICK = ("--method", "minmax", "--max-images", "32", "--backend", "onnxruntime", "--judge-images", "20")


class Shell:
    """Runs commands on one server and keeps what they print."""

    def __init__(self, url: str, capture: pytest.CaptureFixture[str]) -> None:
        self._url = url
        self._capture = capture

    def run(self, *arguments: str) -> tuple[int, str, str]:
        self._capture.readouterr()
        code = run_command([*arguments, "--server", self._url])
        printed = self._capture.readouterr()
        return code, printed.out, printed.err

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run with --json and return the one document on stdout."""
        ended, printed, said = self.run(*arguments, "--json")
        assert ended == code, said
        return json.loads(printed)


@pytest.fixture
def shell(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(server.url, capsys)


@pytest.fixture
def job(shell: Shell) -> dict[str, Any]:
    """A job that is done: the first test builds it, the others find it."""
    shell.json("push-model", str(MODEL), "--name", "cli-digits")
    shell.json("push-dataset", str(CALIBRATION), "--name", "cli-images")
    return shell.json("build", "cli-digits", "cli-images", *QUICK)


def test_files_become_a_plan_in_one_command(shell: Shell, digits: Path, tmp_path: Path) -> None:
    code, printed, said = shell.run("build", str(MODEL), f"{digits}/", *QUICK, "-o", str(tmp_path / "digits.onnx"))
    assert code == 0, said
    assert (tmp_path / "digits.onnx").stat().st_size > 1000
    assert "agreement" in printed
    assert str(tmp_path / "digits.onnx") in printed
    assert shell.json("models", "mnist-cnn")["name"] == "mnist-cnn"


def test_json_has_job_report_and_plan(shell: Shell, job: dict[str, Any], tmp_path: Path) -> None:
    outcome = shell.json("build", "cli-digits", "cli-images", *QUICK, "-o", str(tmp_path))
    assert outcome["state"] == "succeeded"
    assert outcome["report"]["agreement"] == job["report"]["agreement"]
    assert outcome["plan"] == str(tmp_path / f"{job['engine_id']}.onnx")
    assert outcome["cache"]["table"] == "hit"


def test_calibrate_stops_after_the_table(shell: Shell, job: dict[str, Any]) -> None:
    found = shell.json("calibrate", "cli-digits", "cli-images", "--method", "minmax", "--max-images", "32")
    assert found["table_id"] == job["table_id"]
    assert found["engine_id"] is None


def test_how_many_images_sufficed_is_told_of_a_table_that_was_there_too(shell: Shell, job: dict[str, Any]) -> None:
    arguments = ("calibrate", "cli-digits", "cli-images", "--method", "minmax", "--converge", "0.5")
    told = [shell.run(*arguments)[1] for _ in range(2)]
    for printed in told:
        assert "32 of 500 images sufficed, within 50 %" in printed
        assert "from 16 to 32 images amax moved at most by minmax " in printed
    assert "table hit" in told[1]
    table = shell.json(*arguments)["table"]
    assert (table["converge"]["images"], "scales" in table) == (32, False)
    code, _, said = shell.run("calibrate", *arguments[1:5], "--converge", "1e-9")
    assert (code, "did not suffice" in shell.run("calibrate", *arguments[1:5], "--converge", "1e-9")[1]) == (0, True), said


def test_table_show_tells_the_whole_curve(shell: Shell, job: dict[str, Any]) -> None:
    found = shell.json("calibrate", "cli-digits", "cli-images", "--method", "minmax")
    code, printed, said = shell.run("table", "show", found["table_id"])
    images = [int(line.split()[3]) for line in said.splitlines()]
    assert code == 0
    assert images == [point["images"] for point in found["table"]["drift"]["points"] if point["method"] == "minmax"]
    assert len(images) >= 4
    assert "percentile" in said.splitlines()[-1]
    assert "moved" not in printed


def test_build_tells_of_uneven_weights_and_of_their_equalization(shell: Shell, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "cli-uneven.onnx"
    onnx.save_model(uneven_net(), path)
    preprocess = '{"size": [16, 16], "color": "RGB", "layout": "NCHW"}'
    arguments = ("build", str(path), f"{digits}/", *QUICK, "--preprocess", preprocess)
    plain, better = (shell.run(*arguments, *more)[1] for more in ((), ("--equalize",)))
    assert "uneven " in plain
    assert "equalized " not in plain
    assert "uneven " not in better
    assert "equalized  deep_node and " in better


def test_a_missed_gate_exits_with_3_and_still_reports(shell: Shell, job: dict[str, Any]) -> None:
    strict = ("--min-agreement", "1.0", "--method", "percentile", "--percentile", "50")
    code, printed, said = shell.run("build", "cli-digits", "cli-images", *QUICK, *strict)
    assert code == 3, said
    assert "agreement" in printed
    assert "gate_missed" in said


def test_a_failed_job_exits_with_1(shell: Shell, job: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    # so large a scale overflows float32 on the way through the layers
    spec.write_text(json.dumps({"preprocess": {"scale": 1e36}}))
    code, _, said = shell.run("calibrate", "cli-digits", "cli-images", "--method", "minmax", "--spec", str(spec))
    assert code == 1, said
    assert "calibration_nonfinite" in said


def test_a_model_that_is_not_there_exits_with_2(shell: Shell) -> None:
    code, _, said = shell.run("build", "no-such-model", "no-such-dataset")
    assert code == 2
    assert "no-such-model" in said


def test_wait_pull_and_show_take_the_id_that_no_wait_prints(shell: Shell, job: dict[str, Any], tmp_path: Path) -> None:
    code, printed, _ = shell.run("build", "cli-digits", "cli-images", *QUICK, "--no-wait")
    assert code == 0
    job_id = printed.strip()
    assert shell.json("wait", job_id)["state"] == "succeeded"
    pulled = shell.json("pull", job_id, "-o", str(tmp_path / "p.onnx"))
    assert pulled["id"] == job["engine_id"]
    assert (tmp_path / "p.onnx").stat().st_size == pulled["bytes"]
    assert shell.json("pull", job["engine_id"], "-o", str(tmp_path / "q.onnx"))["digest"] == pulled["digest"]
    assert "succeeded" in shell.run("jobs", "show", job_id)[1]
    assert job_id in [each["id"] for each in shell.json("jobs", "list", "--state", "succeeded", "--limit", "3")]


def test_pull_of_a_job_without_engine_says_so(shell: Shell, job: dict[str, Any]) -> None:
    table_only = shell.json("calibrate", "cli-digits", "cli-images", "--method", "minmax", "--max-images", "32")
    code, _, said = shell.run("pull", table_only["id"])
    assert code == 2
    assert "has no engine" in said


def test_tables_go_out_and_in(shell: Shell, job: dict[str, Any], tmp_path: Path) -> None:
    code, printed, _ = shell.run("table", "export", job["table_id"])
    assert code == 0
    assert printed.startswith("TRT-100600-EntropyCalibration2\n")
    cache = tmp_path / "digits.cache"
    assert shell.json("table", "export", job["table_id"], "-o", str(cache))["path"] == str(cache)
    assert cache.read_text() == printed
    imported = shell.json("table", "import", str(cache), "--model", "cli-digits")
    assert shell.json("table", "diff", job["table_id"], imported["id"])["max_drift"] < 1e-6
    assert shell.run("table", "diff", job["table_id"], imported["id"])[0] == 0
    assert job["table_id"] in shell.run("table", "list", "--model", "cli-digits")[1]
    listed = {line.rpartition(":")[0] for line in printed.splitlines()[1:]}
    assert shell.json("table", "coverage", job["table_id"])["listed"] == len(listed)
    assert set(shell.json("table", "show", job["table_id"])["scales"]) < listed  # TensorRT's constants come on top
    assert set(shell.json("table", "show", imported["id"])["scales"]) == set(
        shell.json("table", "show", job["table_id"])["scales"]
    )


@pytest.mark.parametrize("form", ["json", "ort"])
def test_other_formats_are_written(shell: Shell, job: dict[str, Any], tmp_path: Path, form: str) -> None:
    assert shell.run("table", "export", job["table_id"], "--format", form, "-o", str(tmp_path / form))[0] == 0
    assert (tmp_path / form).stat().st_size > 10


def test_images_are_added_to_a_dataset(shell: Shell, digits: Path) -> None:
    shell.json("push-dataset", str(digits), "--name", "cli-growing")
    grown = shell.json("push-dataset", str(CALIBRATION), "--name", "cli-growing", "--add")
    assert grown["images"] == 500


def test_lists_are_for_people_too(shell: Shell, job: dict[str, Any]) -> None:
    for arguments in (["models"], ["datasets"], ["workers"], ["jobs", "list"], ["table", "list"], ["datasets", "cli-images"]):
        code, printed, said = shell.run(*arguments)
        assert (code, said) == (0, "")
        assert len(printed.splitlines()) > 1


def test_an_interrupt_leaves_the_job_running(shell: Shell, server: RunningServer, job: dict[str, Any]) -> None:
    slow = ["calibrate", "cli-digits", "cli-images", "--preprocess", '{"mean": [0.125]}', "--server", server.url]
    process = subprocess.Popen([sys.executable, "-m", "app", *slow], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    job_id = process.stderr.readline().split()[-1]
    process.stderr.readline()  # its first stage: the events have begun
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert f"{job_id} goes on" in said
    assert shell.json("wait", job_id)["state"] == "succeeded"


def test_cancel_of_an_ended_job_changes_nothing(shell: Shell, job: dict[str, Any]) -> None:
    assert shell.json("jobs", "cancel", job["id"])["state"] == "succeeded"
