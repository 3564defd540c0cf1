"""Whole jobs over HTTP on a GPU worker: routed by its probe, calibrated, built, judged and timed on the GPU itself."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gpu.digits import ORACLE
from tests.gpu.test_engines import needs_calibrator
from tests.running import TEST_DIGITS, RunningServer, upload_digits

LIKE_TENSORRT = {"grid": "tensorrt", "batch_size": 50}


@pytest.fixture(scope="module")
def gpu_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    server = RunningServer(tmp_path_factory.mktemp("server")).start()
    with server.client() as client:
        upload_digits(client)
        client.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())
        yield client
    server.stop()


def run(http: httpx.Client, calibration: dict[str, Any], engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    chosen = {"backend": "tensorrt", "optimization_level": 0} | engine
    judge = {"dataset": "digits-test", "images": 1500, "latency": more.pop("latency", False)}
    spec = {"model": "digits", "dataset": "digits-calibration", "calibration": calibration, "engine": chosen, "judge": judge}
    job = http.post("/v1/jobs", params={"wait": 60}, json=spec | more).json()
    for _ in range(3):
        if job["state"] not in ("queued", "running"):
            break
        job = http.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).json()
    assert job["state"] == "succeeded", job["error"]
    return job


def report_of(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return http.get(job["report_url"]).json()


def test_the_worker_names_its_gpu_and_queue(gpu_http: httpx.Client) -> None:
    (worker,) = gpu_http.get("/v1/workers").json()["items"]
    facts = worker["backends"]["tensorrt"]
    version, capability = facts["version"].rsplit(".", 1)[0], facts["compute_capabilities"][0].replace(".", "")
    assert f"trt{version}-sm{capability}" in worker["capabilities"]
    assert facts["gpus"][0]["driver"]


@needs_calibrator
def test_a_native_table_is_tensorrt_s_and_serves_both_quantizations(gpu_http: httpx.Client) -> None:
    calibration = LIKE_TENSORRT | {"method": "native-entropy"}
    explicit = run(gpu_http, calibration, {})
    implicit = run(gpu_http, calibration, {"quantization": "implicit"})
    assert explicit["table_id"] == implicit["table_id"]
    text = gpu_http.get(f"/v1/tables/{explicit['table_id']}/export").text
    assert text.splitlines()[0] == (ORACLE / "mnist-entropy2.cache").read_text().splitlines()[0]
    for job in (explicit, implicit):
        report = report_of(gpu_http, job)
        assert report["judged_by"] == "tensorrt"
        assert 0.60 <= report["accuracy_int8"] <= 0.65
        assert report["accuracy_fp16"] == pytest.approx(report["accuracy_fp32"], abs=0.003)


@needs_calibrator
def test_images_that_fill_no_batch_of_a_native_calibrator_are_told(gpu_http: httpx.Client) -> None:
    job = run(gpu_http, {"method": "native-minmax", "batch_size": 64}, {})
    table = gpu_http.get(f"/v1/tables/{job['table_id']}").json()
    assert (table["images"], table["left_out"]) == (448, 52)
    assert "52 images left out: they do not fill a batch of 64" in gpu_http.get(f"/v1/jobs/{job['id']}/events").text


def test_minmax_is_built_timed_and_served_for_this_gpu_alone(gpu_http: httpx.Client) -> None:
    job = run(gpu_http, LIKE_TENSORRT | {"method": "minmax"}, {}, latency=True)
    report = report_of(gpu_http, job)
    assert report["accuracy_int8"] == pytest.approx(0.972, abs=0.004)
    assert report["latency"]["precisions"].keys() == {"fp32", "fp16", "int8"}
    engine = gpu_http.get(f"/v1/engines/{job['engine_id']}").json()
    assert engine["layers"]["int8"] > 0
    (capability,) = engine["compute_capability"]
    here = {"compute_capability": capability, "tensorrt_version": engine["version"].rsplit(".", 1)[0]}
    assert gpu_http.get(engine["plan_url"], params=here).status_code == 200
    elsewhere = gpu_http.get(engine["plan_url"], params={"compute_capability": "7.5"})
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (409, "engine-target-mismatch")
    nobody = gpu_http.post(elsewhere.json()["rebuild"])
    assert (nobody.status_code, nobody.json()["code"]) == (422, "worker-unavailable")


def test_the_fastest_placement_is_kept(gpu_http: httpx.Client) -> None:
    job = run(gpu_http, LIKE_TENSORRT | {"method": "minmax"}, {}, quantize={"placement": "measured"})
    engine = gpu_http.get(f"/v1/engines/{job['engine_id']}").json()
    figures = engine["placements"]
    # Where other tests keep the GPU busy TensorRT may choose kernels that overflow: such a plan is no candidate.
    sound = [figure["median_ms"] for figure in figures.values() if "refused" not in figure]
    assert sound, figures
    assert figures[engine["placement"]]["median_ms"] == min(sound)
    assert figures[engine["placement"]]["accuracy"] == pytest.approx(0.972, abs=0.004)


def test_a_compatible_plan_for_another_gpu_is_routed_here_built_and_served_for_it(gpu_http: httpx.Client) -> None:
    (worker,) = gpu_http.get("/v1/workers").json()["items"]
    (mine,) = worker["backends"]["tensorrt"]["compute_capabilities"]
    other = "8.6" if mine != "8.6" else "8.9"
    options = {"hardware_compatible": True, "compute_capability": other}
    job = run(gpu_http, LIKE_TENSORRT | {"method": "minmax"}, options)
    assert report_of(gpu_http, job)["accuracy_int8"] == pytest.approx(0.972, abs=0.004)
    plan_url = gpu_http.get(f"/v1/engines/{job['engine_id']}").json()["plan_url"]
    assert gpu_http.get(plan_url, params={"compute_capability": other}).status_code == 200
    assert gpu_http.get(plan_url, params={"compute_capability": "7.5"}).status_code == 409
