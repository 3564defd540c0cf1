"""enginesmith migrate, and tables compared: as people and CI call them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.client.cli import run_command
from app.engines.onnxruntime import OnnxRuntimeRunner, open_session, session_options
from app.quant.judge import Comparison
from tests.client.test_commands import Shell, shell
from tests.observers.nets import read_digits
from tests.running import CALIBRATION, MODEL, ROOT

__all__ = ["shell"]
ORACLE = ROOT / "tests" / "oracle"


def test_without_a_server_one_runs_as_long_as_the_command(tmp_path: Path) -> None:
    out = tmp_path / "digits.int8.onnx"
    command = ["migrate", str(MODEL), str(ORACLE / "mnist-entropy.cache"), "-o", str(out), "--json"]
    done = subprocess.run([sys.executable, "-m", "app", *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["table"]["origin"], document["judge"], document["bytes"]) == ("derived", None, out.stat().st_size)
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_people_read_what_changed_and_what_it_costs(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    images = ("--images", str(CALIBRATION), "--judge-images", "200")
    code, printed, said = shell.run("migrate", str(MODEL), str(ORACLE / "mnist-minmax.cache"), "-o", str(out), *images)
    assert code == 0, said
    assert onnx.load(out).graph.node
    for part in ("16 matched", "7 read INT8", "with a scale per output channel", "stay float", "agreement with FP32"):
        assert part in printed, printed


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
def test_the_file_that_is_written_is_judged(float_type: str, shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    options = ("--images", str(CALIBRATION), "--float-type", float_type, "-o", str(out))
    document = shell.json("migrate", str(MODEL), str(ORACLE / "mnist-entropy2.cache"), *options)
    assert document["report"]["float_type"] == document["judge"]["float_type"] == float_type
    disabled = {"fp32": [], "fp16": ["WeightBiasQuantization"]}[float_type]
    assert document["judge"].get("disabled_optimizers", []) == disabled
    comparison, digits = Comparison(), read_digits()
    comparison.add(outputs(MODEL, digits, []), outputs(out, digits, disabled), [None] * len(digits))
    found = comparison.to_json()
    assert document["judge"]["agreement"] == found["agreement"]
    assert document["judge"]["mean_error"] == pytest.approx(found["mean_error"], rel=1e-5)


def outputs(path: Path, batch: np.ndarray, disabled: list[str]) -> dict[str, np.ndarray]:
    return OnnxRuntimeRunner(open_session(path, session_options(1), disabled)).run(batch)


def test_what_is_lacking_is_measured_on_the_images(shell: Shell, tmp_path: Path) -> None:
    options = ("--fill", "minmax-from-dataset", "-o", str(tmp_path / "m.onnx"))
    command = ("migrate", str(MODEL), str(ORACLE / "mnist-entropy.cache"), *options)
    assert shell.run(*command)[0] == 2
    found = shell.json(*command, "--images", str(CALIBRATION), "--judge-images", "50")
    assert [row["rule"] for row in found["table"]["details"]["filled"].values()] == ["minmax"]
    assert found["judge"]["images"] == 50


def test_zero_points_come_from_the_operators_and_from_images(shell: Shell, tmp_path: Path) -> None:
    command = ("migrate", str(MODEL), str(ORACLE / "mnist-minmax.cache"), "-o", str(tmp_path / "m.onnx"), "--asymmetric")
    code, printed, said = shell.run(*command)
    assert code == 0, said
    assert "zero points: 6 of 7; the others may" in printed
    images = ("--images", str(CALIBRATION), "--judge-images", "200")
    found = shell.json(*command, *images)
    tensors = found["report"]["migration"]["tensors"]
    assert tensors["zero_points"] == tensors["pairs"]
    assert (found["table"]["origin"], found["judge"]["images"]) == ("derived", 200)
    plain = shell.json(*(part for part in command if part != "--asymmetric"), *images)
    sqnr = [each["judge"]["outputs"]["output"]["sqnr_db"] for each in (plain, found)]
    assert sqnr[1] > sqnr[0] + 5
    code, _, said = shell.run(*command, "--float-type", "fp16")
    assert (code, "no zero points" in said) == (2, True)


def test_a_foreign_or_broken_cache_exits_with_2_and_writes_nothing(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    for content, words in ((b"TRT-8601-X\nother: 3c010204\n", "belongs to another model"), (b"zero\n", "first line")):
        (tmp_path / "bad.cache").write_bytes(content)
        code, _, said = shell.run("migrate", str(MODEL), str(tmp_path / "bad.cache"), "-o", str(out))
        assert (code, out.exists()) == (2, False)
        assert words in said


@pytest.mark.parametrize(("limit", "code"), [([], 0), (["--max-drift", "0"], 3), (["--max-drift", "100"], 0)])
def test_two_files_are_compared_without_a_server(
    limit: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (ORACLE / "mnist-minmax.cache").read_text().splitlines()
    (tmp_path / "a.cache").write_text("\n".join(lines[:3]))
    (tmp_path / "b.json").write_text('{"input_scale": 0.01, "/0/Conv_output_0_scale": 0.05}')
    files = (str(tmp_path / "a.cache"), str(tmp_path / "b.json"))
    assert run_command(["--json", "table", "diff", *files, *limit]) == code
    found = json.loads(capsys.readouterr().out)
    assert [row["tensor"] for row in found["tensors"]] == ["input", "/0/Conv_output_0"]


def test_a_tensor_that_only_one_table_has_is_drift(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(ORACLE / f"mnist-{name}.cache") for name in ("entropy", "entropy2")]
    assert run_command(["table", "diff", *files, "--max-drift", "0.5"]) == 3
    assert "11 only in second" in capsys.readouterr().err


def test_a_file_and_a_table_are_not_compared(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "bad.cache").write_text("nothing")
    assert shell.run("table", "diff", str(tmp_path / "bad.cache"), "tbl_nobody")[0] == 2
    for content, words in (("nothing", "first line"), ("\0\0\0\0", "is binary")):
        (tmp_path / "bad.cache").write_text(content)
        code, _, said = shell.run("table", "diff", str(tmp_path / "bad.cache"), str(tmp_path / "bad.cache"))
        assert code == 2
        assert words in said
