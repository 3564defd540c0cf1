"""Metrics against numbers computed by hand."""

import json

import numpy as np
import pytest

from app.errors import GateMissed, JudgeProblem
from app.quant.judge import Comparison, check_gate, judge_rank
from app.spec import GateSpec

FP32 = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.float32)
INT8 = np.array([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0], [0.0, 0.9, 0.0], [0.9, 0.0, 0.0]], np.float32)


def report(labels: list[int | None] | None = None) -> dict:
    comparison = Comparison()
    comparison.add({"output": FP32}, {"output": INT8}, labels or [None] * 4)
    return comparison.to_json()


def test_the_numbers_are_right() -> None:
    told = report([0, 1, 2, 1])
    assert told["images"] == told["labelled"] == 4
    assert told["agreement"] == 0.75
    assert told["accuracy_fp32"] == 0.75
    assert told["accuracy_int8"] == 0.5
    assert told["accuracy_drop"] == 0.25
    error = 3 * 0.1 + 1.0 + 0.9
    assert told["mean_error"] == pytest.approx(error / 12)
    output = told["outputs"]["output"]
    assert output["cosine"] == pytest.approx(2.7 / np.sqrt(4 * 4 * 0.81))
    assert output["sqnr_db"] == pytest.approx(10 * np.log10(4 / (3 * 0.01 + 1 + 0.81)))
    assert output["max_error"] == 1.0
    assert told["warnings"] == ["accuracy_low"]
    json.dumps(told, allow_nan=False)


def test_batches_add_up() -> None:
    comparison = Comparison()
    for row in range(4):
        comparison.add({"output": FP32[[row]]}, {"output": INT8[[row]]}, [row])
    whole = Comparison()
    whole.add({"output": FP32}, {"output": INT8}, [0, 1, 2, 3])
    assert comparison.to_json()["agreement"] == whole.to_json()["agreement"]
    assert comparison.to_json()["outputs"]["output"]["cosine"] == pytest.approx(whole.to_json()["outputs"]["output"]["cosine"])


def test_equal_outputs_have_no_noise() -> None:
    comparison = Comparison()
    comparison.add({"output": FP32}, {"output": FP32}, [None] * 4)
    told = comparison.to_json()
    assert told["agreement"] == 1.0
    assert told["outputs"]["output"]["sqnr_db"] is None
    assert told["outputs"]["output"]["cosine"] == pytest.approx(1.0)
    assert told["accuracy_fp32"] is None


def test_a_row_that_is_no_image_is_no_classification() -> None:
    boxes, comparison = np.ones((12, 4), np.float32), Comparison()  # three of each image
    comparison.add({"boxes": boxes, "output": FP32}, {"boxes": boxes, "output": INT8}, [0, 1, 2, 1])
    assert comparison.to_json()["classification_output"] == "output"
    assert comparison.to_json()["agreement"] == 0.75
    alone = Comparison()
    alone.add({"boxes": boxes}, {"boxes": boxes}, [None] * 4)
    told = alone.to_json()
    assert (told["classification_output"], told["agreement"], told["mean_error"]) == (None, None, 0.0)
    assert told["outputs"]["boxes"]["cosine"] == pytest.approx(1.0)


def test_without_classes_agreement_is_null_and_a_gate_on_it_says_so() -> None:
    comparison = Comparison()
    heat = np.ones((2, 1, 4, 4), np.float32)
    comparison.add({"heat": heat, "yes": heat[:, 0, 0, :1]}, {"heat": heat * 0.9, "yes": heat[:, 0, 0, :1]}, [0, 1])
    told = comparison.to_json()
    assert told["classification_output"] is None
    assert told["agreement"] is told["accuracy_fp32"] is None
    assert told["mean_error"] > 0
    with pytest.raises(JudgeProblem, match="min_agreement"):
        check_gate(told, GateSpec(min_agreement=0.5, max_accuracy_drop=None))


def test_the_gate_holds_or_tells_the_numbers() -> None:
    told = report([0, 1, 2, 1])
    check_gate(told, GateSpec(min_agreement=0.75, max_accuracy_drop=0.25))
    with pytest.raises(GateMissed, match=r"agreement 0\.7500 is below min_agreement 0\.98.*on 4 images"):
        check_gate(told, GateSpec(min_agreement=0.98, max_accuracy_drop=None))
    with pytest.raises(GateMissed, match=r"drops by 0\.2500 \(FP32 0\.7500, INT8 0\.5000\)"):
        check_gate(told, GateSpec(min_agreement=None, max_accuracy_drop=0.01))
    with pytest.raises(JudgeProblem, match="labels"):
        check_gate(report(), GateSpec(min_agreement=None, max_accuracy_drop=0.01))


def test_labels_that_are_no_classes_give_no_accuracy() -> None:
    told = report([0, 1, 20240101, 1])
    assert told["accuracy_fp32"] is None
    assert "labels_outside" in told["warnings"]


def test_bad_outputs_are_named() -> None:
    comparison = Comparison()
    with pytest.raises(JudgeProblem, match="output of the engine holds NaN"):
        comparison.add({"output": FP32}, {"output": INT8 * np.nan}, [None] * 4)
    with pytest.raises(JudgeProblem, match="another shape"):
        comparison.add({"output": FP32}, {"output": INT8[:2]}, [None] * 4)
    with pytest.raises(JudgeProblem, match="no image"):
        Comparison().to_json()


def test_rank_puts_agreement_first_and_the_smaller_error_next() -> None:
    reports = [{"agreement": a, "mean_error": e} for a, e in ((0.9, 0.1), (0.95, 0.3), (0.95, 0.2), (None, 0.1))]
    assert sorted(reports, key=judge_rank)[0] == {"agreement": 0.95, "mean_error": 0.2}
