"""exclude: auto that came to some names makes the file that these names make, byte for byte, and judged that file."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from app.quant.graph import find_needed_tensors
from app.quant.table import table_from_scales, table_to_json
from app.spec import JobSpec
from app.worker.steps.exclude import exclude
from app.worker.steps.judge import judge
from app.worker.steps.quantize import quantize
from tests.quant.nets import Net, concat_net, measured_scales, silu_net
from tests.quant.samples import digits_model, parse_oracle
from tests.worker.observing import DIGITS, LIMITS, PREPROCESS, ignore, store_dataset

TUNED = {"bias_correction": True, "weight_rounding": "gptq"}
CENTRED = TUNED | {"center": True}
GREY = PREPROCESS
COLOR = {"size": [16, 16], "color": "RGB", "layout": "NCHW", "std": [0.25]}


def fork_net() -> onnx.ModelProto:
    """A Relu that a narrow and a wide convolution read: it is centred as long as both are INT8."""
    net = Net(["N", 3, 16, 16])
    net.node("Relu", [net.conv("input", "stem", 3, 32)], "shared")
    net.conv("shared", "narrow", 32, 16, 1)
    net.node("Relu", [net.conv("shared", "wide", 32, 256, 1)], "wide_relu")
    net.conv("wide_relu", "deep", 256, 64, 1)
    return net.model({"narrow": ["N", 16, 16, 16], "deep": ["N", 64, 16, 16]})


@dataclass(frozen=True)
class Case:
    """A model with a table, its images, and what is asked for beside `exclude: auto`."""

    model: Path
    table: Path
    dataset: dict[str, Any]
    spec: JobSpec

    def request(self, exclude: list[str], out: Path) -> dict[str, Any]:
        spec = self.spec.model_dump(mode="json")
        spec["quantize"] |= {"exclude": exclude} | ({} if "auto" in exclude else {"max_excluded": None})
        seen = {"listing": self.dataset["listing"], "max_images": None, "converge": None, "taken": None, "is_own": True}
        judged = {"judge": self.dataset, "is_apart": False, "calibration": seen, "dataset": self.dataset}
        about = {"model": str(self.model), "table": str(self.table), "spec": spec, "limits": LIMITS, "out": str(out)}
        return about | judged | {"quantize": spec["quantize"]}


def photos(count: int) -> dict[str, bytes]:
    random = np.random.default_rng(5)
    files = {}
    for number in range(count):
        content = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(content, "PNG")
        files[f"{number:03}.png"] = content.getvalue()
    return files


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return store_dataset(tmp_path_factory.mktemp("photos"), photos(24))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return store_dataset(tmp_path_factory.mktemp("digits"), DIGITS)


def small(folder: Path, model: onnx.ModelProto, dataset: dict[str, Any], quantize: dict[str, Any]) -> Case:
    batch = np.random.default_rng(6).random((16, 3, 16, 16), np.float32) / 0.25
    scales = measured_scales(model, batch, find_needed_tensors(model))
    scales = {name: scale / (1 if name == "input" else 16) for name, scale in scales.items()}  # too small a range
    return case(folder, model, scales, dataset, {"preprocess": COLOR, "quantize": {"max_excluded": 0.5} | quantize})


def case(folder: Path, model: onnx.ModelProto, scales: Any, dataset: dict[str, Any], spec: dict[str, Any]) -> Case:
    onnx.save(model, folder / "model.onnx")
    (folder / "table.json").write_text(json.dumps(table_to_json(table_from_scales(scales))))
    spec["quantize"]["exclude"] = "auto"
    asked = JobSpec.model_validate({"model": "m", "dataset": "d"} | spec)
    return Case(folder / "model.onnx", folder / "table.json", dataset, asked)


def assert_same_as_names(wanted: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)  # the step keeps images in its folder
    answer = exclude(wanted.request(["auto"], folder / "auto.onnx"), ignore)
    names = answer["exclude"]["excluded"]
    assert names
    placement = quantize(wanted.request(names, folder / "named.onnx"), ignore)
    assert (folder / "auto.onnx").read_bytes() == (folder / "named.onnx").read_bytes()
    assert answer["placement"] == placement
    return answer


def assert_judged_as_kept(wanted: Case, answer: dict[str, Any], folder: Path) -> None:
    found = answer["exclude"]
    assert found["chosen_on"] == "judged images"
    judged = judge(wanted.request([], folder / "none") | {"tested": str(folder / "auto.onnx")}, ignore)
    (kept,) = [row for row in found["final"] if row["excluded"] == len(found["excluded"])]
    assert kept["agreement"] == judged["agreement"]
    assert kept["mean_error"] == pytest.approx(judged["mean_error"], rel=1e-9)


@pytest.mark.parametrize("net", [fork_net, concat_net, silu_net])
@pytest.mark.parametrize("asked", [CENTRED, CENTRED | {"float_type": "fp16", "placement": "fused"}])
def test_small_nets(
    net: Callable[[], onnx.ModelProto], asked: dict[str, Any], pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = small(tmp_path, net(), pictures, asked)
    assert_judged_as_kept(wanted, assert_same_as_names(wanted, tmp_path, monkeypatch), tmp_path)


def test_a_relu_that_is_no_longer_centred(pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = small(tmp_path, fork_net(), pictures, CENTRED | {"max_excluded": 0.03})
    answer = assert_same_as_names(wanted, tmp_path, monkeypatch)
    assert answer["exclude"]["excluded"] == ["narrow"]
    assert "shared" not in [row["tensor"] for row in answer["placement"]["centred"]]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"float_type": "fp16"},
        {"bias_correction": True},
        {"weight_rounding": "gptq"},
        {"bias_correction": True, "center": True},
        CENTRED,
        CENTRED | {"float_type": "fp16"},
    ],
)
def test_digits(asked: dict[str, Any], digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = {"images": 100, "gate": {"min_agreement": 0.97}}
    spec = {"preprocess": GREY, "quantize": dict(asked), "judge": judge}
    wanted = case(tmp_path, digits_model(), parse_oracle("entropy2"), digits, spec)
    found = assert_same_as_names(wanted, tmp_path, monkeypatch)["exclude"]
    assert found["reached"]
    assert found["final"][-1]["agreement"] >= 0.97


def test_something_stays_int8_where_other_nodes_are_float_anyway(
    pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first convolution is too narrow for this placement, so that all the others together are less than all.
    wanted = small(tmp_path, fork_net(), pictures, {"placement": "conservative", "max_excluded": 1.0})
    found = assert_same_as_names(wanted, tmp_path, monkeypatch)
    assert len(found["exclude"]["excluded"]) == 2
    assert len(found["placement"]["quantized"]) == 1
