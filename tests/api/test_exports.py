"""What goes out of a table and a job: cache text equal to TensorRT's, line by line, and what cannot be had."""

import httpx
import pytest

from tests.api.test_jobs import LIKE_TENSORRT, ORACLE, has_rtx, run, scales_of_cache, succeeded
from tests.api.test_uploads import assert_problem


@pytest.mark.parametrize(("method", "oracle"), [("entropy", "mnist-entropy2"), ("minmax", "mnist-minmax")])
def test_table_equals_tensorrt(http: httpx.Client, method: str, oracle: str) -> None:
    job = succeeded(run(http, {"calibration": LIKE_TENSORRT | {"method": method}, "engine": None}))
    algorithm = "EntropyCalibration2" if method == "entropy" else "MinMaxCalibration"
    export = http.get(f"/v1/tables/{job['table_id']}/export", params={"trt_version": "8.6.1", "algorithm": algorithm})
    assert export.text.splitlines()[0] == f"TRT-8601-{algorithm}"
    ours, theirs = scales_of_cache(export.text), scales_of_cache((ORACLE / f"{oracle}.cache").read_text())
    if not has_rtx(http):
        theirs.pop("ONNXTRT_Broadcast_output")  # its name is known to TensorRT's parser alone
    assert ours == pytest.approx(theirs, rel=2e-6)  # every line, what is inside the Gemm as well


def test_auto_keeps_what_is_inside_a_gemm(http: httpx.Client) -> None:
    auto = succeeded(run(http, {"calibration": LIKE_TENSORRT | {"method": "auto"}, "judge": {"images": 100}}))
    chosen = http.get(auto["report_url"]).json()["method"]
    alone = succeeded(run(http, {"calibration": LIKE_TENSORRT | {"method": chosen}, "engine": None}))
    exports = [scales_of_cache(http.get(f"/v1/tables/{job['table_id']}/export").text) for job in (auto, alone)]
    assert exports[0]["/10/Gemm_output"] > 0
    assert exports[0] == exports[1]


@pytest.mark.parametrize("form", ["export", "qdq", "qdq/report"])
def test_what_no_table_is_asked_for_is_refused(http: httpx.Client, form: str) -> None:
    job = succeeded(run(http, {"engine": None, "calibration": {"method": "minmax"}}))
    refused = http.get(f"/v1/tables/{job['table_id']}/{form}", params={"bogus": 1})
    detail = assert_problem(refused, 422, "invalid-spec")["detail"]
    assert str(detail).startswith("The query is not valid: bogus: ")


def test_an_export_is_headed_as_one_of_tensorrts_calibrators(http: httpx.Client) -> None:
    job = succeeded(run(http, {"engine": None, "calibration": {"method": "minmax"}}))
    place = f"/v1/tables/{job['table_id']}/export"
    refused = assert_problem(http.get(place, params={"algorithm": "Foo"}), 422, "unsupported-option")
    assert "MinMaxCalibration, LegacyCalibration" in str(refused["detail"])
    for params, algorithm in (({}, "EntropyCalibration2"), ({"algorithm": "MinMaxCalibration"}, "MinMaxCalibration")):
        assert http.get(place, params=params).text.startswith(f"TRT-100600-{algorithm}\n")


def test_a_job_without_a_report_says_where_else_to_look(http: httpx.Client) -> None:
    job = succeeded(run(http, {"engine": None, "calibration": {"method": "minmax"}}))
    detail = assert_problem(http.get(f"/v1/jobs/{job['id']}/report"), 404, "not-found")["detail"]
    table = f"/v1/tables/{job['table_id']}"
    assert detail == f"Job {job['id']} has no report: it judged no engine. GET {table} tells of its images and drift."
    plain = succeeded(run(http, {"calibration": None, "engine": {"precision": "fp32"}}))
    detail = assert_problem(http.get(f"/v1/jobs/{plain['id']}/report"), 404, "not-found")["detail"]
    assert f"GET /v1/engines/{plain['engine_id']}/report tells" in str(detail)
    for path in (table, f"/v1/engines/{plain['engine_id']}/report"):
        assert http.get(path).status_code == 200
