"""What groups cost, on the digits with TensorRT's own entropy table, which one convolution does not survive."""

from typing import Any

import onnx
import pytest

from app.engines.reference import Reference
from app.engines.sensitivity import QuantizedPair, groups_from_sensitivity, measure_sensitivity
from app.quant.graph import prepare_model
from app.quant.qdq import quantize_model
from app.quant.sensitivity import order_groups
from app.spec import QuantizeSpec
from tests.quant.samples import digits_images, digits_model, parse_oracle


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("reference")
    onnx.save(digits_model(), folder / "model.onnx")
    digits, labels = digits_images()
    reference = Reference(folder, 1)
    reference.add_all(
        folder / "model.onnx", [(digits[start : start + 8], labels[start : start + 8]) for start in (0, 700, 1400)]
    )
    assert reference.images == 24
    quantized = quantize_model(digits_model(), parse_oracle("entropy2"), QuantizeSpec()).model
    events: list[dict[str, Any]] = []
    found = measure_sensitivity(QuantizedPair(quantized, prepare_model(digits_model())), reference, events.append)
    return found | {"events": events, "reference": reference, "quantized": quantized}


def test_every_group_is_measured_alone_in_int8_and_alone_in_float(measured: dict[str, Any]) -> None:
    groups = measured["groups"]
    assert len(groups) == 7
    assert sum(group["share"] for group in groups) == pytest.approx(1.0)
    assert (measured["images"], measured["passes"], measured["unmeasured"]) == (16, 15, 0)
    assert measured["events"][-1] == {"progress": [15, 15]}
    losses = [group["only_int8"]["loss"] for group in groups]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 10 * losses[1]
    assert groups[0]["only_float"]["loss"] < measured["all_int8"]["loss"] / 10
    assert groups[1]["only_float"]["loss"] > measured["all_int8"]["loss"] / 2


def test_the_culprit_comes_first(measured: dict[str, Any]) -> None:
    first = order_groups(groups_from_sensitivity(measured), measured["all_int8"]["loss"])[0]
    assert first.output == measured["groups"][0]["output"]


def test_a_reference_compares_as_the_judge_does(measured: dict[str, Any]) -> None:
    report = measured["reference"].compare(measured["quantized"])
    assert report["images"] == report["labelled"] == 24
    assert 0 < report["agreement"] < 1
    assert measured["reference"].compare(digits_model())["outputs"]["output"]["sqnr_db"] is None
