"""The benchmark's measurements on few images: that they work, not what they say."""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from app.bench.agreement import compare_amax
from app.bench.others import amax_from_qdq, feeds, ort_entropy
from app.bench.prepare import Wanted, default_nets, prepare
from app.bench.resnet50 import make_resnet50
from app.client.cli import run_command
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.observers.nets import DIGITS, DIGITS_MODEL, read_digits, save_net
from tests.quant.samples import parse_oracle

IMAGES = DIGITS / "mnist-calibration-500.zip"


def test_images_are_those_of_the_observer_over_and_over(tmp_path: Path) -> None:
    subject = prepare(Wanted("digits", DIGITS_MODEL, IMAGES, 505), tmp_path)
    batches = list(subject.batches(100))
    assert [len(batch) for batch in batches] == [100] * 5 + [5]
    digits = read_digits()
    assert np.array_equal(np.concatenate(batches), np.concatenate((digits, digits[:5])))


def test_a_net_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(IMAGES), "--count", "40", "--runs", "1"]
    assert run_command([*arguments, "--no-others", "--json"]) == 0
    (net,) = json.loads(capsys.readouterr().out)["nets"]
    assert (net["images"], net["tensors"], net["others"]) == (40, 9, {})
    assert set(net["search_milliseconds"]) == {"minmax", "percentile", "mse", "entropy"}
    assert min(net["ratio"], net["ratio_with_start"], net["memory_ratio"], net["added_share"], net["added_process_share"]) > 0


def test_images_need_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "calibrate", "--images", str(IMAGES)]) == 2
    assert "--images needs --model" in capsys.readouterr().err


def test_a_model_of_any_size_is_measured_at_the_size_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    path = save_net(tmp_path, nodes, {"w": np.ones((16, 3, 3, 3), np.float32)}, "y", ("N", 3, "H", "W"))
    arguments = ["bench", "calibrate", "--model", str(path), "--count", "20", "--runs", "1", "--no-others", "--json"]
    assert run_command(arguments) == 2
    assert "Give preprocess.size" in capsys.readouterr().err
    assert run_command([*arguments, "--preprocess", '{"size": [24, 40]}']) == 0
    (net,) = json.loads(capsys.readouterr().out)["nets"]
    assert (net["images"], net["tensors"]) == (20, 1)


@pytest.mark.parametrize("is_packed", [False, True])
def test_weights_may_lie_beside_the_model(tmp_path: Path, is_packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save_model(onnx.load(DIGITS_MODEL), path, save_as_external_data=True, location="outside.bin", size_threshold=0)
    if is_packed:
        with zipfile.ZipFile(tmp_path / "outside.zip", "w") as archive:
            archive.write(path, path.name)
            archive.write(tmp_path / "outside.bin", "outside.bin")
        path = tmp_path / "outside.zip"
    arguments = ["bench", "calibrate", "--model", str(path), "--count", "20", "--runs", "1", "--no-others", "--json"]
    assert run_command(arguments) == 0
    (net,) = json.loads(capsys.readouterr().out)["nets"]
    assert (net["net"], net["tensors"]) == ("outside", 9)


def test_weights_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save_model(onnx.load(DIGITS_MODEL), path, save_as_external_data=True, location="outside.bin", size_threshold=0)
    (tmp_path / "outside.bin").unlink()
    assert run_command(["bench", "calibrate", "--model", str(path)]) == 2
    assert "outside.bin" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(3, 20, 30), (20, 30, 3)])
def test_noise_has_the_shape_of_the_models_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_net(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], {}, "y", ("N", *shape))
    subject = prepare(Wanted("noise", path, None, 5), tmp_path / "subject")
    (batch,) = subject.batches(5)
    assert (subject.shape, batch.shape) == (shape, (5, *shape))


@pytest.mark.parametrize(
    ("preprocess", "reason"),
    [("{", "not JSON"), ("nowhere", "unknown preset"), ('{"size": [0, 1]}', "size.0"), ('{"height": 1}', "height")],
)
def test_a_preprocess_that_is_none_is_refused(preprocess: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "calibrate", "--model", str(DIGITS_MODEL), "--preprocess", preprocess]) == 2
    assert reason in capsys.readouterr().err


def test_preprocess_needs_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "calibrate", "--preprocess", "imagenet"]) == 2
    assert "--preprocess needs --model" in capsys.readouterr().err


@pytest.mark.parametrize("kept_bytes", [0, 100, -500])
def test_images_are_a_folder_or_a_zip(tmp_path: Path, kept_bytes: int, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.zip").write_bytes(IMAGES.read_bytes()[:kept_bytes])
    arguments = ["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(tmp_path / "broken.zip"), "--runs", "1"]
    assert run_command(arguments) == 2
    assert "no folder and no zip or tar of images" in capsys.readouterr().err


def test_images_may_be_a_tar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "digits.tar.gz"
    with zipfile.ZipFile(IMAGES) as packed, tarfile.open(path, "w:gz") as archive:
        for name in reversed(packed.namelist()):
            member = tarfile.TarInfo(name)
            member.size = packed.getinfo(name).file_size
            archive.addfile(member, packed.open(name))
    subject = prepare(Wanted("digits", DIGITS_MODEL, path), tmp_path / "subject")
    assert np.array_equal(np.concatenate(list(subject.batches(100))), read_digits())
    path.write_bytes(path.read_bytes()[:3000])
    assert run_command(["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(path)]) == 2
    assert "its compressed bytes are cut off" in capsys.readouterr().err


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(IMAGES) as archive:
        (tmp_path / "cut.png").write_bytes(archive.read("00000.png")[:100])
    assert run_command(["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "cut.png" in said
    assert "on_bad_image" not in said


def test_a_folder_without_images_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"The folder {tmp_path}" in said
    assert "archive" not in said


@pytest.mark.parametrize(("count", "told"), [(39, "2.56 % more images cost"), (19, None)])
def test_the_addition_is_told_as_large_as_it_was(count: int, told: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(IMAGES), "--count", str(count)]
    assert run_command([*arguments, "--runs", "1", "--no-others"]) == 0
    said = capsys.readouterr().out
    assert told in said if told else "more images" not in said


def test_a_zip_with_a_damaged_picture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(IMAGES.read_bytes())
    content[200:210] = bytes(10)
    (tmp_path / "damaged.zip").write_bytes(content)
    arguments = ["bench", "calibrate", "--model", str(DIGITS_MODEL), "--images", str(tmp_path / "damaged.zip"), "--runs", "1"]
    assert run_command(arguments) == 2
    assert "00000.png is damaged" in capsys.readouterr().err


def test_onnxruntimes_calibrator_is_fed(tmp_path: Path) -> None:
    subject = prepare(Wanted("digits", DIGITS_MODEL, IMAGES, 3), tmp_path)
    before = DIGITS_MODEL.read_bytes()
    measured = ort_entropy({"subject": subject.to_json()}, lambda _: None)
    assert DIGITS_MODEL.read_bytes() == before
    assert 0 < measured["amax"]["input"] <= 1
    assert measured["tensors"] == len(measured["amax"]) > 9


@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntimes_calibrator_is_fed_all_images_of_a_fixed_batch(tmp_path: Path, count: int) -> None:
    path = save_net(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], {}, "y", (2, 1, 28, 28))
    subject = prepare(Wanted("fixed", path, IMAGES, count), tmp_path / "subject")
    fed = np.concatenate([feed["x"] for feed in feeds(subject)])
    images = np.concatenate(list(subject.batches(count)))
    assert np.array_equal(fed, np.concatenate((images, images[-1:])))  # filled up as the plain pass is
    assert 0 < ort_entropy({"subject": subject.to_json()}, lambda _: None)["amax"]["x"] <= 1


def test_onnxruntimes_calibrator_is_fed_where_weights_are_inputs(tmp_path: Path) -> None:
    path = save_net(tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": np.ones((16, 3, 3, 3), np.float32)}, "y")
    model = onnx.load(path)
    model.graph.input.insert(0, helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (16, 3, 3, 3)))
    onnx.save_model(model, path)
    subject = prepare(Wanted("old", path, None, 3), tmp_path / "subject")
    assert 0 < ort_entropy({"subject": subject.to_json()}, lambda _: None)["amax"]["x"] <= 1


def test_amax_is_read_from_a_qdq_model() -> None:
    scales = parse_oracle("minmax")
    amax = amax_from_qdq(quantize_model(onnx.load(DIGITS_MODEL), scales, QuantizeSpec()).model)
    assert amax
    assert amax == {name: 127 * float(scales[name]) for name in amax}


def test_agreement() -> None:
    found = compare_amax({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.005, "b": 3.0, "d": 1.0})
    assert found == {
        "tensors": 2, "same": 0.5, "median_difference": pytest.approx(0.2525), "largest_difference": 0.5, "tensor": "b",
    }  # fmt: skip
    assert compare_amax({}, {"a": 1.0})["same"] is None


def test_resnet50_has_its_size_and_keeps_its_values_in_range() -> None:
    model = make_resnet50(64)
    onnx.checker.check_model(model, full_check=True)
    assert sum(len(tensor.raw_data) for tensor in model.graph.initializer) == pytest.approx(102e6, rel=0.01)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.random.default_rng(1).random((1, 3, 64, 64), np.float32)})
    assert 1e-3 < np.abs(np.asarray(logits)).max() < 1e6


def test_default_nets(tmp_path: Path) -> None:
    assert [net.name for net in default_nets(None)] == ["digits CNN", "ResNet-50, random weights"]
    assert default_nets(tmp_path)[1].model == tmp_path / "efficientnet-lite0.onnx"
