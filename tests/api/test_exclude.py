"""What stays float, found by measuring: quantize.exclude auto, and the sensitivity that it goes by."""

from typing import Any

import httpx
import pytest

from tests.api.test_jobs import run, succeeded
from tests.running import TEST_DIGITS

BAD = {"method": "entropy"}  # ruins this net, whatever is measured with
GATE = {"dataset": "digits-test", "images": 300, "gate": {"min_agreement": 0.97}}


@pytest.fixture(scope="module", autouse=True)
def _test_digits(server: Any) -> None:
    with server.client() as client:
        client.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())


def report_of(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return http.get(job["report_url"]).json()


def test_auto_makes_the_gate_hold(http: httpx.Client) -> None:
    missed = run(http, {"calibration": BAD, "judge": GATE})
    assert missed["error"]["code"] == "gate_missed"
    spec = {"calibration": BAD, "judge": GATE, "quantize": {"exclude": "auto"}}
    job = succeeded(run(http, spec))
    report = report_of(http, job)
    found = report["exclude"]
    assert report["agreement"] >= 0.97
    assert found["reached"]
    assert 0 < found["share"] < 1
    assert found["chosen_on"] == "other images of: judge dataset"
    assert report["judged_on"] == "judge dataset"
    assert found["target"] == {"min_agreement": 0.97}
    assert found["trials"][0]["excluded"] == 0
    kept = {row["node"]: row["reason"] for row in http.get(f"/v1/engines/{job['engine_id']}").json()["quantize"]["kept_float"]}
    assert sum(reason.startswith("excluded by") for reason in kept.values()) > 0
