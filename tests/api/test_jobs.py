"""Jobs over HTTP: the whole contract on the digits, with a real worker and real engines."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.api.test_uploads import assert_problem, members, tar_of, zip_of
from tests.running import CALIBRATION, MODEL, TEST_DIGITS

DATASET = {"model": "digits", "dataset": "digits-calibration"}
ORACLE = Path(__file__).parent.parent / "oracle"
LIKE_TENSORRT = {"grid": "tensorrt", "batch_size": 50, "observe": "all"}


def run(http: httpx.Client, spec: dict[str, Any]) -> dict[str, Any]:
    """Submit a job on the digits and return it when it has ended."""
    response = http.post("/v1/jobs", params={"wait": 60}, json=DATASET | spec)
    assert response.status_code == 200, response.text
    return response.json()


def succeeded(job: dict[str, Any]) -> dict[str, Any]:
    assert (job["state"], job["error"]) == ("succeeded", None), job
    return job


def scales_of_cache(text: str) -> dict[str, float]:
    rows = (line.rpartition(": ") for line in text.splitlines()[1:])
    return {name: float(np.frombuffer(bytes.fromhex(digits), ">f4")[0]) for name, _, digits in rows}


@pytest.fixture(scope="module", autouse=True)
def _test_digits(server: Any) -> None:
    with server.client() as client:
        client.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())


def has_rtx(http: httpx.Client) -> bool:
    return "rtx" in http.get("/v1/workers").json()["items"][0]["capabilities"]


def test_second_identical_job_is_a_pure_hit(http: httpx.Client) -> None:
    spec = {"calibration": {"method": "percentile"}, "judge": {"dataset": "digits-test", "images": 300}}
    first = succeeded(run(http, spec))
    again = succeeded(run(http, spec))
    assert again["id"] != first["id"]
    assert again["attempt"] == 0
    assert {again["cache"][part] for part in ("observation", "table", "engine")} == {"hit"}
    assert (again["table_id"], again["engine_id"]) == (first["table_id"], first["engine_id"])
    assert http.post("/v1/tables/lookup", json=DATASET | spec).json() == {
        "hit": True,
        "table_id": first["table_id"],
        "reason": None,
    }


def test_miss_says_its_reason(http: httpx.Client) -> None:
    files = list(members(CALIBRATION).items())
    spec = {"calibration": {"method": "minmax"}, "engine": None, "dataset": "reasons", "model": "reasons"}
    http.put("/v1/models/reasons", content=MODEL.read_bytes())
    http.put("/v1/datasets/reasons", content=zip_of(dict(files[:60])))
    first = succeeded(run(http, spec))
    assert first["cache"]["reason"] == "never computed"
    assert run(http, spec | {"calibration": {"method": "entropy"}})["cache"] == {
        "observation": "hit", "table": "miss", "engine": None, "reason": "method changed: minmax -> entropy",
    }  # fmt: skip
    changed = run(http, spec | {"preprocess": {"mean": [0.5]}})
    assert changed["cache"]["reason"] == "preprocess changed: mean"
    http.patch("/v1/datasets/reasons", content=tar_of(dict(files[60:63])))
    lookup = http.post("/v1/tables/lookup", json=DATASET | spec).json()
    assert not lookup["hit"]
    assert "dataset changed (+3 -0 images)" in lookup["reason"]
    stale = http.get("/v1/tables", params={"model": "reasons"}).json()["items"]
    assert {(table["stale"], table["stale_reason"]) for table in stale} == {(True, "dataset changed")}
    assert http.get(f"/v1/tables/{first['table_id']}").json()["id"] == first["table_id"]


def test_auto_chooses_the_best_agreement(http: httpx.Client) -> None:
    job = succeeded(run(http, {"judge": {"dataset": "digits-test", "images": 1500}}))
    report = http.get(job["report_url"]).json()
    best = max(report["candidates"].values(), key=lambda candidate: candidate["agreement"])
    assert set(report["candidates"]) == {"minmax", "percentile", "mse", "entropy"}
    assert report["agreement"] == best["agreement"]
    assert report["accuracy_int8"] >= report["accuracy_fp32"] - 0.003
    assert report["judged_on"] == "judge dataset"


def test_engine_plan_and_ranges(http: httpx.Client) -> None:
    job = succeeded(run(http, {"calibration": {"method": "minmax"}}))
    engine = http.get(f"/v1/engines/{job['engine_id']}").json()
    assert (engine["backend"], engine["precision"]) == ("onnxruntime", "int8")
    assert engine["layers"]["int8"] > 0
    whole = http.get(engine["plan_url"])
    assert whole.headers["etag"] == f'"{engine["digest"]}"'
    assert hashlib.sha256(whole.content).hexdigest() == engine["digest"]
    assert len(whole.content) == engine["bytes"]
    part = http.get(engine["plan_url"], headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, whole.content[100:])
    assert http.get(engine["plan_url"], headers={"Range": "bytes=-7"}).content == whole.content[-7:]
    assert http.get(engine["plan_url"], headers={"Range": "bytes=0-0", "If-Range": '"other"'}).status_code == 200
    assert http.get(engine["plan_url"], headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    many = "bytes=" + ",".join("0-1" for _ in range(1000))
    assert http.get(engine["plan_url"], headers={"Range": many}).status_code == 200
    assert_problem(http.get(engine["plan_url"], headers={"Range": "bytes=99999999-"}), 416, "range-not-satisfiable")
    session = onnxruntime.InferenceSession(whole.content, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": np.zeros((3, 1, 28, 28), np.float32)})
    assert np.asarray(output).shape == (3, 10)


def test_qdq_model_of_a_table(http: httpx.Client) -> None:
    job = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": None}))
    response = http.get(f"/v1/tables/{job['table_id']}/qdq")
    model = onnx.load(io.BytesIO(response.content))
    onnx.checker.check_model(model, full_check=True)
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    fewer = onnx.load(io.BytesIO(http.get(f"/v1/tables/{job['table_id']}/qdq", params={"exclude": "/3/Conv"}).content))
    assert len(fewer.graph.node) < len(model.graph.node)
    assert_problem(http.get(f"/v1/tables/{job['table_id']}/qdq", params={"exclude": "nothing"}), 422, "invalid-spec")


def test_tables_diff_and_json(http: httpx.Client) -> None:
    ids = [
        succeeded(run(http, {"calibration": {"method": method}, "engine": None}))["table_id"]
        for method in ("minmax", "entropy")
    ]
    diff = http.get(f"/v1/tables/{ids[0]}/diff/{ids[1]}").json()
    drifts = [entry["drift"] for entry in diff["tensors"]]
    assert drifts == sorted(drifts, reverse=True)
    assert diff["max_drift"] == drifts[0] > 0
    same = http.get(f"/v1/tables/{ids[0]}/diff/{ids[0]}").json()
    assert same["max_drift"] == 0
    full = http.get(f"/v1/tables/{ids[0]}", params={"full": 1}).json()
    exported = http.get(f"/v1/tables/{ids[0]}/export", params={"format": "json"}).json()
    assert {name: np.float32(amax / 127) for name, amax in exported["amax"].items()} == full["scales"]


def test_import_of_a_tensorrt_cache(http: httpx.Client) -> None:
    cache = (ORACLE / "mnist-minmax.cache").read_bytes()
    imported = http.post("/v1/tables/import", params={"model": "digits"}, content=cache)
    assert imported.status_code == 201, imported.text
    document = imported.json()
    assert (document["origin"], document["matched"], document["missing"]) == ("imported", 16, 0)
    assert (document["constants"], document["internal"], document["unknown"]) == (2, 2, 0)
    exported = http.get(f"/v1/tables/{document['id']}/export", params={"algorithm": "MinMaxCalibration"})
    assert exported.content == cache
    assert http.get(f"/v1/tables/{document['id']}/qdq").status_code == 200
    zero = b"TRT-100600-MinMaxCalibration\ninput: 00000000\n"
    assert_problem(http.post("/v1/tables/import", params={"model": "digits"}, content=zero), 422, "table-scale-invalid")
    other = b"TRT-100600-MinMaxCalibration\nother: 3c010204\n"
    assert_problem(http.post("/v1/tables/import", params={"model": "digits"}, content=other), 422, "table-coverage-too-low")


def test_gate_missed_keeps_report_and_engine(http: httpx.Client) -> None:
    spec = {"calibration": LIKE_TENSORRT | {"method": "entropy"}, "judge": {"dataset": "digits-test", "images": 500}}
    missed = run(http, spec | {"judge": spec["judge"] | {"gate": {"min_agreement": 0.98}}})
    assert (missed["state"], missed["error"]["code"]) == ("failed", "gate_missed")
    assert "accuracy_low" in missed["warnings"]
    assert http.get(missed["report_url"]).json()["agreement"] < 0.9
    assert http.get(f"/v1/engines/{missed['engine_id']}/report").json() == http.get(missed["report_url"]).json()
    again = run(http, spec | {"judge": spec["judge"] | {"gate": {"min_agreement": 0.98}}})
    assert (again["state"], again["cache"]["engine"]) == ("failed", "hit")
    assert run(http, spec | {"judge": spec["judge"] | {"gate": {"min_agreement": 0.1}}})["state"] == "succeeded"


def test_events_tell_the_story_and_resume(http: httpx.Client) -> None:
    job = run(http, {"calibration": {"method": "minmax", "max_images": 77}})
    text = http.get(f"/v1/jobs/{job['id']}/events").text
    blocks = [
        dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in text.split("\r\n\r\n") if block
    ]
    events = [block for block in blocks if "event" in block]
    kinds = [block["event"] for block in events]
    assert {"stage", "progress", "done"} <= set(kinds)
    assert kinds[-1] == "done"
    stages = [json.loads(block["data"])["stage"] for block in events if block["event"] == "stage"]
    assert [stage for stage in stages if stage] == ["observe", "derive", "quantize", "build", "judge"]
    resumed = http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": events[2]["id"]}).text
    assert f"id: {events[2]['id']}\r\n" not in resumed
    assert f"id: {events[3]['id']}\r\n" in resumed


def test_cancel_is_idempotent_and_final(http: httpx.Client) -> None:
    accepted = http.post("/v1/jobs", json=DATASET | {"calibration": {"max_images": 499}})
    cancelled = http.post(f"/v1/jobs/{accepted.json()['id']}/cancel").json()
    assert cancelled["state"] == "cancelled"
    assert http.post(f"/v1/jobs/{accepted.json()['id']}/cancel").json()["state"] == "cancelled"
    done = succeeded(run(http, {"calibration": {"method": "minmax"}}))
    assert http.post(f"/v1/jobs/{done['id']}/cancel").json()["state"] == "succeeded"
    again = succeeded(run(http, {"calibration": {"max_images": 499}}))
    assert again["id"] != accepted.json()["id"]


def test_one_shot(http: httpx.Client) -> None:
    with MODEL.open("rb") as model, CALIBRATION.open("rb") as images:
        response = http.post(
            "/v1/engines", params={"wait": 60}, files={"model": ("One Shot.onnx", model), "images": images},
            data={"spec": '{"calibration": {"method": "minmax"}}'},
        )  # fmt: skip
    assert response.status_code == 200, response.text
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    assert succeeded(response.json())["engine_id"]
    assert http.get("/v1/models/one-shot").status_code == 200


def test_latency_stands_beside_accuracy(http: httpx.Client) -> None:
    judge = {"images": 100, "latency": True}
    job = succeeded(run(http, {"calibration": {"method": "minmax"}, "judge": judge}))
    report = http.get(job["report_url"]).json()
    measured = report["latency"]["precisions"]
    assert report["latency"]["batch"] == 8
    assert all(0 < measured[name]["median_ms"] <= measured[name]["p99_ms"] for name in ("fp32", "int8"))
    is_slower = measured["int8"]["median_ms"] >= measured["fp32"]["median_ms"]
    assert ("int8_not_faster" in job["warnings"]) == is_slower
    untimed = succeeded(run(http, {"calibration": {"method": "minmax"}, "judge": {"images": 100}}))
    assert "latency" not in http.get(untimed["report_url"]).json()
    float_engine = {"engine": {"precision": "fp32"}, "calibration": None, "judge": {"latency": True}}
    assert_problem(http.post("/v1/jobs", json=DATASET | float_engine), 422, "invalid-spec")


def test_rtx_plan_for_gpus_that_are_not_here(http: httpx.Client) -> None:
    if not has_rtx(http):
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    engine = {"backend": "tensorrt-rtx", "compute_capability": ["8.6", "8.9"]}
    job = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": engine}))
    document = http.get(f"/v1/engines/{job['engine_id']}").json()
    assert document["compute_capability"] == ["8.6", "8.9"]
    assert document["bytes"] > 1000
    assert http.get(job["report_url"]).json()["agreement"] > 0.9
    assert http.get(document["plan_url"], params={"compute_capability": "8.9"}).status_code == 200
    elsewhere = http.get(document["plan_url"], params={"compute_capability": "9.0"})
    assert_problem(elsewhere, 409, "engine-target-mismatch")
    assert_problem(http.post(elsewhere.json()["rebuild"]), 422, "compute-capability-unsupported")
    again = http.post(f"/v1/engines/{job['engine_id']}/rebuild", params={"compute_capability": "8.6"})
    assert again.status_code == 202
    assert again.json()["spec"]["engine"]["compute_capability"] == ["8.6"]
    http.post(f"/v1/jobs/{again.json()['id']}/cancel")
    half = {"backend": "tensorrt-rtx", "compute_capability": "8.6", "precision": "fp16"}
    assert succeeded(run(http, {"dataset": None, "calibration": None, "engine": half}))["table_id"] is None
    turing = http.post("/v1/jobs", json=DATASET | {"engine": engine | {"compute_capability": "7.5"}})
    assert_problem(turing, 422, "compute-capability-unsupported")
    nothing = http.post("/v1/jobs", json=DATASET | {"engine": {"backend": "tensorrt-rtx"}})
    assert_problem(nothing, 422, "compute-capability-required")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"calibration": None, "engine": None}, "not valid: calibration: null and engine: null together leave nothing to do."),
        ({"quantize": {"center": True}}, "not valid: quantize: center needs bias_correction"),
        ({"preprocess": "nobody"}, "not valid: preprocess: "),
        ({"priority": 0}, "not valid: priority: Input should be greater than or equal to 1."),
    ],
)
def test_what_is_wrong_with_a_spec_is_told_in_our_words(http: httpx.Client, change: dict[str, object], detail: str) -> None:
    fields = {"model": "digits", "dataset": "digits-calibration"} | change
    answers = [
        http.post("/v1/jobs", json=fields),
        http.post("/v1/engines", files={"model": b"", "images": b"", "spec": (None, json.dumps(change))}),
    ]
    for response in answers:
        told = str(assert_problem(response, 422, "invalid-spec")["detail"])
        assert detail in told
        assert "Value error" not in told


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"surprise": 1}, 422, "invalid-spec"),
        ({"calibration": {"method": "magic"}}, 422, "invalid-spec"),
        ({"model": "nobody"}, 404, "not-found"),
        ({"dataset": "nobody"}, 404, "not-found"),
        ({"dataset": None}, 422, "invalid-spec"),
        ({"engine": {"backend": "openvino"}}, 422, "invalid-spec"),
        ({"engine": {"backend": "tensorrt"}}, 422, "worker-unavailable"),
        ({"engine": {"precision": "fp16"}, "calibration": None}, 422, "unsupported-option"),
        ({"preprocess": {"size": [32, 32]}}, 422, "input-layout-mismatch"),
        ({"preprocess": "resnet"}, 422, "invalid-spec"),
        ({"engine": {"shapes": {"x": {"min": [1], "opt": [1], "max": [1]}}}}, 422, "shape-profile-invalid"),
        ({"calibration": {"method": "native-entropy"}}, 422, "unsupported-option"),
        ({"judge": {"gate": {}}}, 422, "invalid-spec"),
    ],
)
def test_bad_specs_are_refused_before_any_work(http: httpx.Client, change: dict[str, Any], status: int, code: str) -> None:
    before = http.get("/v1/jobs").json()["items"]
    assert_problem(http.post("/v1/jobs", json=DATASET | change), status, code)
    assert http.get("/v1/jobs").json()["items"] == before


def test_corrupt_image_fails_the_job_or_is_skipped(http: httpx.Client) -> None:
    files = dict(list(members(CALIBRATION).items())[:40])
    first = next(iter(files))
    files[first] = files[first][:-60]
    assert http.put("/v1/datasets/corrupt", content=zip_of(files)).status_code in (200, 201)
    spec = {"dataset": "corrupt", "engine": None}
    failed = run(http, spec | {"calibration": {"method": "minmax"}})
    assert (failed["state"], failed["error"]["code"]) == ("failed", "image_corrupt")
    assert first in failed["error"]["detail"]
    skipping = {"method": "minmax", "on_bad_image": "skip", "max_bad_fraction": 0.05}
    skipped = succeeded(run(http, spec | {"calibration": skipping}))
    assert "images_skipped" in skipped["warnings"]


def test_nan_activation_names_tensor_and_image(http: httpx.Client) -> None:
    model = onnx.load(MODEL)
    model.graph.node.append(onnx.helper.make_node("Log", ["output"], ["log"], name="log"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("log", onnx.TensorProto.FLOAT, ["N", 10]))
    assert http.put("/v1/models/nan", content=model.SerializeToString()).status_code in (200, 201)
    job = run(http, {"model": "nan", "engine": None, "calibration": {"method": "minmax", "observe": "all"}})
    assert (job["state"], job["error"]["code"]) == ("failed", "calibration_nonfinite")
    assert "log" in job["error"]["detail"]
    assert "00000.png" in job["error"]["detail"]


def with_input_shape(*dimensions: str | int) -> bytes:
    """Return the digits CNN with other declared input dimensions."""
    model = onnx.load(MODEL)
    shape = model.graph.input[0].type.tensor_type.shape
    for dimension, value in zip(shape.dim, dimensions, strict=True):
        dimension.Clear()
        if isinstance(value, str):
            dimension.dim_param = value
        else:
            dimension.dim_value = value
    del model.graph.value_info[:]
    return model.SerializeToString()


def test_dynamic_dimensions_need_a_profile(http: httpx.Client) -> None:
    assert http.put("/v1/models/dynamic", content=with_input_shape("N", 1, "H", "W")).status_code in (200, 201)
    spec = DATASET | {"model": "dynamic"}
    assert_problem(http.post("/v1/jobs", json=spec), 422, "preprocess-required")
    sized = spec | {"preprocess": {"size": [28, 28]}}
    document = assert_problem(http.post("/v1/jobs", json=sized), 422, "shape-profile-required")
    assert "H" in str(document["detail"])
    profile = {name: [batch, 1, 28, 28] for name, batch in (("min", 1), ("opt", 4), ("max", 8))}
    job = run(http, sized | {"engine": {"shapes": {"input": profile}}, "calibration": {"method": "minmax"}})
    assert succeeded(job)["spec"]["engine"]["shapes"]["input"]["max"] == [8, 1, 28, 28]


def test_fixed_batch_calibrates_a_partial_last_batch(http: httpx.Client) -> None:
    assert http.put("/v1/models/by-four", content=with_input_shape(4, 1, 28, 28)).status_code in (200, 201)
    files = dict(list(members(CALIBRATION).items())[:10])
    http.put("/v1/datasets/ten", content=zip_of(files))
    spec = {"dataset": "ten", "engine": None, "calibration": {"method": "minmax", "observe": "all"}}
    tables = [succeeded(run(http, spec | {"model": model}))["table_id"] for model in ("digits", "by-four")]
    assert http.get(f"/v1/tables/{tables[0]}/diff/{tables[1]}").json()["max_drift"] < 1e-6


def test_imported_table_is_used_only_where_it_is_allowed(http: httpx.Client) -> None:
    assert http.put("/v1/models/migrated", content=MODEL.read_bytes()).status_code in (200, 201)
    cache = (ORACLE / "mnist-minmax.cache").read_bytes()
    imported = http.post("/v1/tables/import", params={"model": "migrated"}, content=cache).json()["id"]
    spec = {"model": "migrated", "calibration": {"method": "minmax", "max_images": 33}}
    allowed = succeeded(run(http, spec | {"allow_imported": True}))
    assert allowed["table_id"] == imported
    computed = succeeded(run(http, spec))
    assert http.get(f"/v1/tables/{computed['table_id']}").json()["origin"] == "computed"
    assert succeeded(run(http, spec | {"allow_imported": True}))["table_id"] == computed["table_id"]


def test_lower_priority_number_runs_earlier(http: httpx.Client) -> None:
    blocker = http.post("/v1/jobs", json=DATASET | {"calibration": {"method": "minmax", "max_images": 301}}).json()
    later, sooner = (
        http.post("/v1/jobs", json=DATASET | {"priority": priority, "calibration": {"method": "minmax", "max_images": images}})
        for priority, images in ((200, 302), (1, 303))
    )
    ended = [http.get(f"/v1/jobs/{one['id']}", params={"wait": 60}).json() for one in (blocker, later.json(), sooner.json())]
    assert {job["state"] for job in ended} == {"succeeded"}
    assert ended[2]["started_at"] < ended[1]["started_at"]


def test_native_calibrator_needs_a_whole_batch(http: httpx.Client) -> None:
    http.put("/v1/datasets/few", content=zip_of(dict(list(members(CALIBRATION).items())[:5])))
    spec = {"dataset": "few", "calibration": {"method": "native-entropy"}, "engine": {"backend": "tensorrt"}}
    document = assert_problem(http.post("/v1/jobs", json=DATASET | spec), 422, "dataset-too-small")
    assert document["images"] == 5
