"""What stays float, found by measuring; and what is tuned: over HTTP, on digits that the entropy method ruins."""

from typing import Any

import httpx
import onnx
import pytest

from tests.api.test_jobs import run, succeeded
from tests.api.test_uploads import assert_problem
from tests.running import MODEL, TEST_DIGITS

BAD = {"method": "entropy"}
GATE = {"dataset": "digits-test", "images": 300, "gate": {"min_agreement": 0.97}}
TUNED = {"bias_correction": True, "weight_rounding": "gptq", "center": True}


@pytest.fixture(scope="module", autouse=True)
def _test_digits(server: Any) -> None:
    with server.client() as client:
        client.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())


def report_of(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return http.get(job["report_url"]).json()


def quantize_of(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return http.get(f"/v1/engines/{job['engine_id']}").json()["quantize"]


def test_auto_makes_the_gate_hold(http: httpx.Client) -> None:
    assert run(http, {"calibration": BAD, "judge": GATE})["error"]["code"] == "gate_missed"
    spec = {"calibration": BAD, "judge": GATE, "quantize": {"exclude": "auto"}}
    job = succeeded(run(http, spec))
    report = report_of(http, job)
    found = report["exclude"]
    assert report["agreement"] >= 0.97
    assert (found["reached"], found["target"], found["limit"]) == (True, {"min_agreement": 0.97}, 1.0)
    assert (found["chosen_on"], report["judged_on"]) == ("other images of: judge dataset", "judge dataset")
    assert found["trials"][0]["excluded"] == 0
    quantize = quantize_of(http, job)
    reasons = [row["reason"] for row in quantize["kept_float"]]
    assert reasons == [f"excluded by {name}" for name in found["excluded"]]
    assert 1 - quantize["multiply_adds_int8"] == pytest.approx(found["share"])
    assert report["engine"]["multiply_adds_int8"] == quantize["multiply_adds_int8"]
    assert report["sensitivity"]["groups"][0]["output"] in found["excluded"]


def test_auto_is_measured_once_and_its_engine_is_that_of_the_names(http: httpx.Client) -> None:
    spec = {"calibration": BAD, "judge": GATE, "quantize": {"exclude": "auto"}}
    first = succeeded(run(http, spec))
    again = succeeded(run(http, spec))
    assert (again["attempt"], again["cache"]["engine"], again["cache"]["reason"]) == (0, "hit", None)
    names = report_of(http, first)["exclude"]["excluded"]
    named = succeeded(run(http, spec | {"quantize": {"exclude": names}}))
    assert named["engine_id"] == again["engine_id"] == first["engine_id"]
    assert "exclude" not in report_of(http, named)
    assert report_of(http, again) == report_of(http, first)


def test_the_limit_is_kept_and_the_report_says_that_it_was_too_tight(http: httpx.Client) -> None:
    quantize = {"exclude": ["auto", "/10/Gemm"], "max_excluded": 0.04}
    job = run(http, {"calibration": BAD, "judge": GATE, "quantize": quantize})
    assert job["error"]["code"] == "gate_missed"
    found = report_of(http, job)["exclude"]
    assert not found["reached"]
    assert found["share"] <= 0.04
    assert "excluded by /10/Gemm" in [row["reason"] for row in quantize_of(http, job)["kept_float"]]


def test_an_accuracy_gate_is_aimed_at_without_labels_as_well(http: httpx.Client) -> None:
    judge = {"dataset": "digits-test", "images": 1500, "gate": {"max_accuracy_drop": 0.02}}
    report = report_of(http, succeeded(run(http, {"calibration": BAD, "judge": judge, "quantize": {"exclude": "auto"}})))
    assert report["exclude"]["chosen_on"] == "calibration"  # whose images have no labels
    assert report["accuracy_drop"] <= 0.02


def test_tuning_is_told_and_brings_the_outputs_nearer(http: httpx.Client) -> None:
    spec = {"calibration": {"method": "mse"}, "judge": {"dataset": "digits-test", "images": 1500, "sensitivity": True}}
    plain = succeeded(run(http, spec))
    tuned = succeeded(run(http, spec | {"quantize": TUNED}))
    assert plain["table_id"] == tuned["table_id"]
    assert [row["tensor"] for row in quantize_of(http, tuned)["centred"]] == [
        "/6/d/d.2/Clip_output_0",
        "/7/d/d.2/Clip_output_0",
    ]
    assert quantize_of(http, tuned)["tuned"] == {"images": 64, "rounded": 7, "corrected": 7, "left": []}
    before, after = report_of(http, plain), report_of(http, tuned)
    assert after["outputs"]["output"]["sqnr_db"] > before["outputs"]["output"]["sqnr_db"] + 2
    for report in (before, after):
        assert len(report["sensitivity"]["groups"]) == 7
        assert report["sensitivity"]["chosen_on"] == "calibration"


@pytest.mark.parametrize("change", [{"method": "minmax"}, {"method": "auto"}])
def test_tuning_looks_at_no_image_that_calibration_did_not_need(http: httpx.Client, change: dict[str, Any]) -> None:
    spec = {"calibration": change | {"converge": 0.9}, "quantize": {"bias_correction": True}}
    job = succeeded(run(http, spec))
    taken = http.get(f"/v1/tables/{job['table_id']}").json()["converge"]["taken"]
    assert report_of(http, job)["judged_on"] == "held out"
    assert quantize_of(http, job)["tuned"]["images"] == taken == 32
    auto = succeeded(run(http, spec | {"quantize": {"bias_correction": True, "exclude": "auto", "max_excluded": 0.5}}))
    assert quantize_of(http, auto)["tuned"]["images"] == taken


def test_auto_judges_the_methods_as_they_will_be_tuned(http: httpx.Client) -> None:
    job = succeeded(run(http, {"quantize": {"bias_correction": True}, "judge": {"dataset": "digits-test", "images": 1500}}))
    report = report_of(http, job)
    assert report["agreement"] == max(candidate["agreement"] for candidate in report["candidates"].values())
    assert report["accuracy_int8"] >= report["accuracy_fp32"] - 0.003


def test_groups_have_the_names_of_the_model_under_every_placement(http: httpx.Client) -> None:
    known = {output for node in onnx.load(MODEL).graph.node for output in node.output}
    spec = {"calibration": {"method": "mse"}, "judge": {"dataset": "digits-test", "images": 300, "sensitivity": True}}
    job = succeeded(run(http, spec | {"quantize": {"placement": "fused"}}))
    outputs = [group["output"] for group in report_of(http, job)["sensitivity"]["groups"]]
    assert "output" in outputs
    assert set(outputs) <= known
    table = job["table_id"]
    for placement in ("conservative", "default", "fused"):
        chosen = {"placement": placement, "exclude": outputs[:2]}
        assert http.get(f"/v1/tables/{table}/qdq", params=chosen).status_code == 200


def test_what_cannot_be_asked_for_is_refused(http: httpx.Client) -> None:
    table = succeeded(run(http, {"calibration": {"method": "mse"}, "engine": None}))["table_id"]
    assert_problem(http.get(f"/v1/tables/{table}/qdq", params={"exclude": "auto"}), 422, "unsupported-option")
    wrong = {"model": "digits", "dataset": "digits-calibration"}
    answers = {
        "max_excluded limits what": {"quantize": {"max_excluded": 0.1}},
        "center needs bias_correction": {"quantize": {"center": True}},
        "asymmetric spends all steps": {"quantize": {"center": True, "bias_correction": True, "asymmetric": True}},
        "beside a table": {"table": table, "quantize": {"bias_correction": True}},
        "needs an INT8 engine": {"judge": {"sensitivity": True}, "engine": {"precision": "fp32"}, "calibration": None},
    }
    for words, change in answers.items():
        response = http.post("/v1/jobs", json=wrong | change)
        assert response.status_code == 422
        assert words in response.text
