"""The benchmark of accuracy on few images: that all are judged alike and on what they have not seen."""

import json
import zipfile
from pathlib import Path

import onnx
import pytest

from app.bench.accuracy import OURS, Options
from app.bench.judged import float_share, judge
from app.bench.prepare import Wanted, prepare
from app.bench.quantizers import ort_static
from app.bench.splits import Halved, digits_split
from app.client.cli import run_command
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.observers.nets import DIGITS, DIGITS_MODEL
from tests.quant.samples import parse_oracle


def write_every_50th(first: int, path: Path) -> Path:
    with zipfile.ZipFile(DIGITS / "mnist-test-1500.zip") as source, zipfile.ZipFile(path, "w") as out:
        for name in sorted(source.namelist())[first::50]:
            out.writestr(name, source.read(name))
    return path


@pytest.fixture(scope="module")
def some_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_every_50th(0, tmp_path_factory.mktemp("digits") / "some.zip")


def test_no_image_is_in_both_halves(tmp_path: Path, some_digits: Path) -> None:
    splits = list(Halved("digits", DIGITS_MODEL, some_digits, {}, 4).write(tmp_path))
    names = [[zipfile.ZipFile(path).namelist() for path in (split.calibration, split.judge)] for split in splits]
    everything = set(zipfile.ZipFile(some_digits).namelist())
    for calibration, judged in names:
        assert not set(calibration) & set(judged)
        assert set(calibration) | set(judged) == everything
    assert names[0] == names[1][::-1]
    assert names[2] == names[3][::-1]
    assert set(names[2][0]) not in (set(names[0][0]), set(names[0][1]))


def test_another_quantizer_is_judged_as_ours_are(tmp_path: Path, some_digits: Path) -> None:
    calibration = prepare(Wanted("digits", DIGITS_MODEL, digits_split().calibration, 32), tmp_path / "calibration")
    subject = prepare(Wanted("digits", DIGITS_MODEL, some_digits), tmp_path / "judge")
    tested = str(tmp_path / "quantized.onnx")
    ort_static({"subject": calibration.to_json(), "method": "MinMax", "out": tested}, lambda _: None)
    report = judge({"subject": subject.to_json(), "archive": str(some_digits), "tested": tested}, lambda _: None)
    assert report["images"] == report["labelled"] == 30
    assert report["agreement"] > 0.9
    assert report["float_share"] == 0.0
    assert report["session_options"] == {"session.x64quantprecision": "1"}


def test_the_share_in_float_is_read_from_any_qdq_model() -> None:
    model, scales = onnx.load(DIGITS_MODEL), parse_oracle("minmax")
    assert float_share(model) == 1.0
    assert float_share(quantize_model(model, scales, QuantizeSpec()).model) == 0.0
    part = quantize_model(model, scales, QuantizeSpec(exclude=("/3/Conv",)))
    assert float_share(part.model) == pytest.approx(1 - part.report["multiply_adds_int8"])


def test_the_table_has_a_row_for_each_way(capsys: pytest.CaptureFixture[str], some_digits: Path, tmp_path: Path) -> None:
    images = ["--images", str(write_every_50th(25, tmp_path / "others.zip")), "--judge", str(some_digits)]
    arguments = ["bench", "accuracy", "--model", str(DIGITS_MODEL), *images]
    only = ["--only", "minmax", "--only", "asymmetric, exclude", "--only", "MinMax"]
    strict = ["--min-agreement", "1", "--max-excluded", "0.2"]
    assert run_command(["--json", *arguments, *only, "--method", "mse", *strict]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    combined = list(OURS)[-1].replace("auto", "mse", 1)
    assert combined == "mse, bias_correction, gptq, asymmetric, exclude auto"
    assert [row["what"] for row in rows] == ["Enginesmith minmax", f"Enginesmith {combined}", "onnxruntime MinMax"]
    assert rows[1]["methods"] == ["mse"]
    assert all(row["images"] == row["splits"] * 30 == 30 and "failed" not in row for row in rows)
    assert rows[0]["accuracy_fp32"] > 0.8
    assert rows[0]["float_share"] == 0.0
    assert all(0.9 < row["expected_agreement"] <= 1 for row in rows)


def test_a_gate_is_given_to_the_ways_that_exclude_automatically() -> None:
    ways = Options(print, min_agreement=0.9995, max_excluded=0.1).ways()
    assert list(ways) == list(OURS)
    for what, way in ways.items():
        is_excluding = "exclude auto" in what
        assert way["judge"] == ({"gate": {"min_agreement": 0.9995}} if is_excluding else {})
        assert way["quantize"].get("max_excluded") == (0.1 if is_excluding else None)
    assert "max_excluded" not in str(Options(print).ways())


def test_model_and_images_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "accuracy", "--model", str(DIGITS_MODEL)]) == 2
    assert "--model and --images need each other" in capsys.readouterr().err
    assert run_command(["bench", "accuracy", "--judge", str(DIGITS / "mnist-test-1500.zip")]) == 2
    assert "--judge needs" in capsys.readouterr().err
