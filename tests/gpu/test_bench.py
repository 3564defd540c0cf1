"""`enginesmith bench gpu` on few digits: that it measures, not what it says."""

import json

import pytest

from app.client.cli import run_command
from tests.gpu.digits import MODEL, ORACLE
from tests.gpu.test_engines import needs_calibrator
from tests.observers.nets import DIGITS, DIGITS_MODEL


@needs_calibrator
def test_a_net_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    images = str(DIGITS / "mnist-calibration-500.zip")
    subject = ["--model", str(DIGITS_MODEL), "--images", images, "--count", "100", "--batch", "50"]
    assert run_command(["bench", "gpu", *subject, "--runs", "1", "--json"]) == 0
    (net,) = json.loads(capsys.readouterr().out)["nets"]
    assert {plain["batch"] for plain in net["plain"]} == {32, 50}
    assert net["ours"]["tensorrt"]["images_a_pass"] == 50
    assert min(*net["ratio"].values(), net["ours"]["mergeable"]["images_per_second"]) > 0
    entropy = net["native"]["native-entropy"]
    assert entropy["batches"] == 2
    assert entropy["agreement"]["largest_difference"] < 2e-6


@needs_calibrator
def test_engines_of_every_kind_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(ORACLE / "mnist-minmax.cache")]
    kinds = [f"--kind={kind}" for kind in ("implicit", "fused", "fp16", "bf16")]
    assert run_command(["bench", "engines", str(MODEL), *cache, *kinds, "--level", "0", "--batch", "50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(engine["median_ms"] > 0 for engine in document["engines"].values()), document["engines"]
    assert list(document["engines"]) == ["implicit", "fused", "fp16", "bf16"]
    assert document["engines"]["fused"]["layers"]["int8"] > 0
    assert (document["batch"], document["optimization_level"]) == (50, 0)
