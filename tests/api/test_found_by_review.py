"""Faults that a reader of this code once found by using it; each stays fixed."""

import hashlib
import io
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from tests.api.test_jobs import DATASET, run, succeeded, with_input_shape
from tests.api.test_uploads import assert_problem, members, zip_of
from tests.running import CALIBRATION, MODEL, TEST_DIGITS, RunningServer


def test_model_with_external_data_builds(http: httpx.Client, tmp_path: Path) -> None:
    model = onnx.load(MODEL)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    archive = zip_of({f"sub/{name}": (tmp_path / name).read_bytes() for name in ("m.onnx", "weights.bin")})
    document = http.put("/v1/models/external", content=archive)
    assert document.status_code == 201, document.text
    job = succeeded(run(http, {"model": "external", "calibration": {"method": "minmax"}}))
    same = succeeded(run(http, {"calibration": {"method": "minmax"}}))
    assert http.get(f"/v1/tables/{job['table_id']}/diff/{same['table_id']}").json()["max_drift"] == 0
    assert http.get(f"/v1/tables/{job['table_id']}/qdq").status_code == 200
    alone = http.put("/v1/models/lonely", content=(tmp_path / "m.onnx").read_bytes())
    assert_problem(alone, 422, "model-external-data-missing")


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_is_judged(http: httpx.Client, batch: int) -> None:
    http.put(f"/v1/models/fixed-{batch}", content=with_input_shape(batch, 1, 28, 28))
    http.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())
    spec = {"calibration": {"method": "minmax"}, "judge": {"dataset": "digits-test", "images": 201}}
    fixed, free = (succeeded(run(http, spec | {"model": name})) for name in (f"fixed-{batch}", "digits"))
    reports = [http.get(job["report_url"]).json() for job in (fixed, free)]
    assert reports[0]["images"] == reports[1]["images"] == 201
    assert reports[0]["accuracy_fp32"] == reports[1]["accuracy_fp32"]


def test_one_shots_of_one_name_do_not_mix(server: RunningServer, http: httpx.Client) -> None:
    other = onnx.load(MODEL)
    other.producer_name = "another model"
    bodies = [MODEL.read_bytes(), other.SerializeToString()]
    answers: dict[int, dict[str, Any]] = {}

    def build(number: int) -> None:
        files = {"model": ("same.onnx", bodies[number]), "images": ("same.zip", CALIBRATION.read_bytes())}
        spec = {"calibration": {"method": "minmax"}, "engine": None}
        with server.client() as client:
            answers[number] = client.post("/v1/engines?wait=60", files=files, data={"spec": json.dumps(spec)}).json()

    threads = [threading.Thread(target=build, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    models = [http.get(f"/v1/models/{answers[number]['spec']['model']}").json() for number in (0, 1)]
    assert [model["digest"] for model in models] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert all(answer["state"] == "succeeded" for answer in answers.values())


def test_spec_may_be_a_file_of_the_form(http: httpx.Client) -> None:
    files = {
        "model": ("a.onnx", MODEL.read_bytes()),
        "images": ("a.zip", CALIBRATION.read_bytes()),
        "spec": ("spec.json", b'{"calibration": {"method": "percentile"}, "engine": null}'),
    }
    job = succeeded(http.post("/v1/engines?wait=60", files=files).json())
    assert http.get(f"/v1/tables/{job['table_id']}").json()["method"] == "percentile"


def test_refused_one_shot_stores_nothing(http: httpx.Client) -> None:
    model = ("left-over.onnx", MODEL.read_bytes())
    bad_images = http.post("/v1/engines", files={"model": model, "images": ("left-over.zip", b"no archive")})
    assert_problem(bad_images, 422, "archive-invalid")
    files = {"model": model, "images": ("left-over.zip", CALIBRATION.read_bytes())}
    impossible = http.post("/v1/engines", files=files, data={"spec": '{"engine": {"backend": "tensorrt"}}'})
    assert_problem(impossible, 422, "worker-unavailable")
    assert http.get("/v1/models/left-over").status_code == 404
    assert http.get("/v1/datasets/left-over").status_code == 404


def test_one_shot_without_images(http: httpx.Client) -> None:
    spec = '{"calibration": null, "engine": {"precision": "fp32"}}'
    files = {"model": (f"mdl_{'a' * 24}.onnx", MODEL.read_bytes())}
    job = succeeded(http.post("/v1/engines?wait=60", files=files, data={"spec": spec}).json())
    assert job["engine_id"]
    assert http.get(f"/v1/models/mdl_{'a' * 24}").status_code == 404


def test_concurrent_patches_lose_nothing(server: RunningServer, http: httpx.Client) -> None:
    files = list(members(CALIBRATION).items())
    http.put("/v1/datasets/patched", content=zip_of(dict(files[:10])))
    parts = [dict(files[start : start + 40]) for start in (10, 50, 90, 130)]

    def patch(part: dict[str, bytes]) -> None:
        with server.client() as client:
            assert client.patch("/v1/datasets/patched", content=zip_of(part)).status_code == 200

    threads = [threading.Thread(target=patch, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert http.get("/v1/datasets/patched").json()["images"] == 170


def test_report_lists_all_methods_whichever_job_came_first(http: httpx.Client) -> None:
    http.put("/v1/models/order", content=with_input_shape("batch", 1, 28, 28))
    spec = {"model": "order", "judge": {"images": 40}, "calibration": {"max_images": 50}}
    for method in ("minmax", "percentile", "mse", "entropy"):
        job = succeeded(run(http, spec | {"calibration": {"max_images": 50, "method": method}}))
        report = http.get(job["report_url"]).json()
        assert (report["method"], report["candidates"]) == (method, None)
    report = http.get(succeeded(run(http, spec))["report_url"]).json()
    assert set(report["candidates"]) == {"minmax", "percentile", "mse", "entropy"}


def test_damaged_plan_is_refused_and_built_anew(server: RunningServer, http: httpx.Client) -> None:
    spec = {"calibration": {"method": "minmax", "max_images": 45}}
    job = succeeded(run(http, spec))
    engine = http.get(f"/v1/engines/{job['engine_id']}").json()
    stored = server.data / "blobs" / "sha256" / engine["digest"][:2] / engine["digest"]
    content = bytearray(stored.read_bytes())
    content[500] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(content)
    assert_problem(http.get(engine["plan_url"], headers={"Range": "bytes=400-600"}), 500, "blob-corrupt")
    assert_problem(http.get(engine["plan_url"]), 500, "blob-corrupt")
    again = succeeded(run(http, spec))
    assert (again["cache"]["engine"], again["engine_id"]) == ("miss", job["engine_id"])
    assert http.get(engine["plan_url"]).status_code == 200


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"calibration": {"max_images": 10**30}}, "invalid-spec"),
        ({"engine": {"workspace_bytes": 10**30}}, "invalid-spec"),
        ({"preprocess": {"scale": 0}}, "invalid-spec"),
        ({"engine": {"optimization_level": 5}}, "unsupported-option"),
        ({"calibration": None, "engine": {"precision": "fp32"}, "judge": {"latency": True}}, "invalid-spec"),
        ({"calibration": None, "engine": {"precision": "fp32"}, "quantize": {"exclude": ["x"]}}, "invalid-spec"),
        ({"judge": {"gate": {"max_accuracy_drop": 0.1}}}, "invalid-spec"),
    ],
)
def test_options_without_effect_are_refused(http: httpx.Client, change: dict[str, Any], code: str) -> None:
    assert_problem(http.post("/v1/jobs", json=DATASET | change), 422, code)


def test_images_must_fit_the_profile(http: httpx.Client) -> None:
    http.put("/v1/models/resizable", content=with_input_shape("N", 1, "H", "W"))
    profile = {"min": [1, 1, 14, 14], "opt": [1, 1, 20, 20], "max": [8, 1, 24, 24]}
    spec = DATASET | {"model": "resizable", "preprocess": {"size": [28, 28]}, "engine": {"shapes": {"input": profile}}}
    assert_problem(http.post("/v1/jobs", json=spec), 422, "shape-profile-invalid")


def test_bad_judge_image_is_not_hidden_by_an_earlier_job(http: httpx.Client) -> None:
    files = dict(list(members(TEST_DIGITS).items())[:30])
    first = next(iter(files))
    files[first] = files[first][:-60]
    http.put("/v1/datasets/half-corrupt", content=zip_of(files))
    judged = {"judge": {"dataset": "half-corrupt"}}
    skip = {"method": "minmax", "on_bad_image": "skip", "max_bad_fraction": 0.5}
    succeeded(run(http, judged | {"calibration": skip}))
    failed = run(http, judged | {"calibration": {"method": "minmax"}})
    assert (failed["state"], failed["error"]["code"]) == ("failed", "image_corrupt")


def test_odd_requests_are_no_server_errors(http: httpx.Client) -> None:
    assert_problem(http.get("/v1/models", headers={"Host": "["}), 403, "forbidden")
    assert_problem(http.get("/v1/models", headers={"Origin": "http://[evil"}), 403, "forbidden")
    long = {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}
    assert_problem(http.post("/v1/models", content=b"x", headers=long), 400, "invalid-request")
    table = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": None}))["table_id"]
    assert_problem(http.get(f"/v1/tables/{table}/qdq?exclude="), 422, "invalid-spec")


def test_order_of_capabilities_and_excludes_makes_no_other_job(http: httpx.Client) -> None:
    if "rtx" not in http.get("/v1/workers").json()["items"][0]["capabilities"]:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    engines = []
    for capabilities in (["8.6", "8.9"], ["8.9", "8.6", "8.6"]):
        engine = {"backend": "tensorrt-rtx", "compute_capability": capabilities}
        engines.append(succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": engine}))["engine_id"])
    assert engines[0] == engines[1]


def test_full_hit_ends_its_events(http: httpx.Client) -> None:
    spec = {"calibration": {"method": "minmax"}, "engine": None}
    succeeded(run(http, spec))
    hit = succeeded(run(http, spec))
    assert hit["attempt"] == 0
    assert "event: done" in http.get(f"/v1/jobs/{hit['id']}/events").text


def test_head_of_a_plan(http: httpx.Client) -> None:
    job = succeeded(run(http, {"calibration": {"method": "minmax"}}))
    plan = http.get(f"/v1/engines/{job['engine_id']}/plan")
    head = http.head(f"/v1/engines/{job['engine_id']}/plan")
    assert (head.status_code, head.headers["etag"]) == (200, plan.headers["etag"])
    assert int(head.headers["content-length"]) == len(plan.content)
    assert onnx.load(io.BytesIO(plan.content)).graph.node


def test_unknown_exclude_fails_before_the_calibration(http: httpx.Client) -> None:
    spec = {"calibration": {"method": "minmax", "max_images": 321}, "quantize": {"exclude": ["nobody"]}}
    failed = run(http, spec)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "invalid_spec")
    assert "nobody" in failed["error"]["detail"]
    assert run(http, {"calibration": spec["calibration"], "engine": None})["cache"]["observation"] == "miss"
