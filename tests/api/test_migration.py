"""Tables of other tools over HTTP: what comes in is matched and never mixed with what was computed; what goes out is whole."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.quant_utils import write_calibration_table

from app.quant.foreign import parse_foreign
from app.quant.ort_table import format_ort_table
from app.quant.table import scales_from_table
from tests.api.test_jobs import has_rtx, run, succeeded
from tests.api.test_uploads import assert_problem
from tests.quant.nets import Net
from tests.running import MODEL, TEST_DIGITS

ORACLE = Path(__file__).parent.parent / "oracle"
FLAT, POOLED = "/9/Flatten_output_0", "/8/GlobalAveragePool_output_0"


@pytest.fixture(scope="module", autouse=True)
def _migrated(server: Any) -> None:
    with server.client() as client:
        client.put("/v1/models/legacy", content=MODEL.read_bytes())
        client.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())


def cache(name: str) -> bytes:
    return (ORACLE / f"mnist-{name}.cache").read_bytes()


def post(http: httpx.Client, content: bytes, **params: Any) -> httpx.Response:
    return http.post("/v1/tables/import", params={"model": "legacy"} | params, content=content)


def imported(http: httpx.Client, content: bytes, **params: Any) -> dict[str, Any]:
    response = post(http, content, **params)
    assert response.status_code == 201, response.text
    return response.json()


def scales_of(http: httpx.Client, table_id: str) -> dict[str, float]:
    return http.get(f"/v1/tables/{table_id}", params={"full": 1}).json()["scales"]


def test_a_cache_without_a_needed_tensor_is_refused_where_it_is_used_and_not_before(http: httpx.Client) -> None:
    table = imported(http, cache("entropy"))
    assert (table["origin"], table["missing"], table["details"]["missing"]) == ("imported", 1, [FLAT])
    assert http.get(post(http, cache("entropy")).headers["location"]).json()["id"] == table["id"]
    assert table["coverage"] == pytest.approx(8 / 9)
    problem = assert_problem(http.get(f"/v1/tables/{table['id']}/qdq"), 422, "table-incomplete")
    assert FLAT in str(problem["detail"])


def test_neighbours_fill_what_follows_and_say_from_where(http: httpx.Client) -> None:
    table = imported(http, cache("entropy"), fill="neighbours")
    assert (table["origin"], table["missing"], table["filled"]) == ("derived", 0, 1)
    filled = table["details"]["filled"][FLAT]
    assert (filled["rule"], filled["source"], filled["through"]) == ("same", [POOLED], ["Flatten"])
    scales = scales_of(http, table["id"])
    assert scales[FLAT] == scales[POOLED]
    model = onnx.load(io.BytesIO(http.get(f"/v1/tables/{table['id']}/qdq").content))
    onnx.checker.check_model(model, full_check=True)


def test_a_dataset_fills_what_it_measures_and_no_more(http: httpx.Client) -> None:
    lines = cache("minmax").decode().splitlines()
    kept = "\n".join(line for line in lines if not line.startswith(("input", "/5/Relu")))
    options = {"fill": "minmax-from-dataset", "dataset": "digits-calibration"}
    waiting = post(http, kept.encode(), **options, wait=0)
    if waiting.status_code == 202:  # the same request again, once the job that it started has ended
        job = http.get(waiting.headers["location"], params={"wait": 60}).json()
        assert (job["state"], waiting.json()["id"]) == ("succeeded", job["id"])
    table = imported(http, kept.encode(), **options)
    assert (table["origin"], table["missing"]) == ("derived", 0)
    assert {name: row["rule"] for name, row in table["details"]["filled"].items()} == dict.fromkeys(
        ["input", "/5/Relu_output_0"], "minmax"
    )
    theirs = scales_from_table(parse_foreign(cache("minmax")).table)
    for name, scale in scales_of(http, table["id"]).items():
        assert scale == pytest.approx(float(theirs[name]), rel=2e-6)
    document = http.get(f"/v1/tables/{table['id']}").json()
    assert document["imported"]["filled_from"].startswith("tbl_")
    assert document["dataset"] is not None  # under whichever name those bytes were measured first


def test_fill_and_dataset_go_together(http: httpx.Client) -> None:
    for params in ({"fill": "minmax-from-dataset"}, {"dataset": "digits-test"}, {"fill": "guess"}, {"surprise": 1}):
        assert_problem(post(http, cache("minmax"), **params), 422, "invalid-spec")
    options = {"fill": "minmax-from-dataset", "dataset": "digits-test"}
    entropy = cache("entropy")
    assert_problem(post(http, entropy, **options, preprocess="nobody"), 422, "invalid-spec")
    assert_problem(post(http, entropy, **options, preprocess="{"), 422, "invalid-spec")
    assert_problem(post(http, entropy, **options | {"dataset": "nobody"}), 404, "not-found")


def test_a_filled_table_is_no_computed_one(http: httpx.Client) -> None:
    filled = imported(http, cache("entropy"), fill="neighbours")
    spec = {"model": "legacy", "calibration": {"method": "mse", "max_images": 31}, "engine": None}
    assert not http.post("/v1/tables/lookup", json=spec | {"dataset": "digits-calibration"}).json()["hit"]
    computed = succeeded(run(http, spec))["table_id"]
    assert computed != filled["id"]


@pytest.mark.parametrize("algorithm", ["entropy2", "minmax"])
def test_what_tensorrt_wrote_goes_out_as_it_came(http: httpx.Client, algorithm: str) -> None:
    content = cache(algorithm)
    header = content.split(b"\n")[0].decode()
    table = imported(http, content.replace(b"\n", b"\r\n"))
    _, version, name = header.split("-")
    export = http.get(f"/v1/tables/{table['id']}/export", params={"trt_version": version, "algorithm": name})
    assert export.content == content


def test_all_that_tensorrt_asks_for_is_listed_where_all_was_observed(http: httpx.Client) -> None:
    spec = {"calibration": {"method": "minmax", "observe": "all"}, "engine": None}
    whole = succeeded(run(http, spec))["table_id"]
    told = http.get(f"/v1/tables/{whole}/coverage").json()
    assert (told["missing"], told["listed"]) == ([], told["asked"])
    assert {"10.weight_output", "10.bias_output"} <= set(told["added"])
    assert "/10/Gemm_output" not in told["added"]  # it was measured
    if has_rtx(http):
        assert told["names_from"].startswith("tensorrt-rtx")
        assert told["asked"] == len(cache("entropy2").splitlines()) - 1
    part = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": None}))["table_id"]
    assert "/0/Conv_output_0" in http.get(f"/v1/tables/{part}/coverage").json()["missing"]


def test_every_format_goes_out_and_in_bit_for_bit(http: httpx.Client) -> None:
    table = succeeded(run(http, {"model": "legacy", "calibration": {"method": "mse"}, "engine": None}))["table_id"]
    own = scales_of(http, table)
    for form in ("trt", "json", "ort"):
        content = http.get(f"/v1/tables/{table}/export", params={"format": form}).content
        back = imported(http, content)
        assert (back["unknown"], back["missing"], scales_of(http, back["id"])) == (0, 0, own), form


def test_onnxruntimes_flatbuffer_makes_the_same_model(http: httpx.Client) -> None:
    scales = scales_from_table(parse_foreign(cache("minmax")).table)
    first, second = imported(http, cache("minmax")), imported(http, format_ort_table(scales))
    models = [http.get(f"/v1/tables/{table['id']}/qdq").content for table in (first, second)]
    assert models[0] == models[1]
    assert http.get(f"/v1/tables/{second['id']}").json()["imported"]["format"] == "onnxruntime"


def test_the_files_that_onnxruntime_writes_make_the_same_model(http: httpx.Client, tmp_path: Path) -> None:
    scales = scales_from_table(parse_foreign(cache("minmax")).table)
    ends: dict[str, Any] = {n: (np.zeros((), np.float32), np.array(127 * s, np.float32)) for n, s in scales.items()}
    write_calibration_table(TensorsData(CalibrationMethod.MinMax, ends).data, str(tmp_path))
    models = set()
    for kind in ("flatbuffers", "json", "cache"):
        table = imported(http, (tmp_path / f"calibration.{kind}").read_bytes())
        assert http.get(f"/v1/tables/{table['id']}").json()["imported"]["format"] == "onnxruntime"
        models.add(http.get(f"/v1/tables/{table['id']}/qdq").content)
    assert len(models) == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "table-invalid"),
        (b"TRT-8601-MinMaxCalibration\ninput: 3c0102", "table-invalid"),
        (b"TRT-8601-MinMaxCalibration\ninput: 3c010204\ninput: 3c010204\n", "table-invalid"),
        (b"TRT-8601-MinMaxCalibration\nin\x1bput: 3c010204\n", "table-invalid"),
        (b"TRT-8601-MinMaxCalibration\nin\xff: 3c010204\n", "table-invalid"),
        (b"TRT-8601-MinMaxCalibration\ninput: 00000001\n", "table-scale-invalid"),
        (b"TRT-8601-MinMaxCalibration\ninput: 7f800000\n", "table-scale-invalid"),
        (b"TRT-8601-MinMaxCalibration\ninput: bc010204\n", "table-scale-invalid"),
        (b'{"input_scale": 0}', "table-scale-invalid"),
        (b"input 0.0\n", "table-scale-invalid"),
        (b"input -1.0\n", "table-scale-invalid"),
        (b"input inf\n", "table-scale-invalid"),
        (b"input 1.0\ninput 1.0\n", "table-invalid"),
        (b"input 1.0\nother 1", "table-invalid"),
        (b"in\x1bput 1.0\n", "table-invalid"),
        (b"in\xff 1.0\n", "table-invalid"),
        (b'{"input": 1}', "table-invalid"),
        (b"\x04\x00\x00\x00\xff\xff\xff\xff", "table-invalid"),
        (b"TRT-8601-MinMaxCalibration\nother: 3c010204\n", "table-coverage-too-low"),
    ],
)
def test_bad_tables_are_refused_and_nothing_is_stored(http: httpx.Client, content: bytes, code: str) -> None:
    before = http.get("/v1/tables", params={"model": "legacy"}).json()["items"]
    problem = assert_problem(post(http, content), 422, code)
    assert http.get("/v1/tables", params={"model": "legacy"}).json()["items"] == before
    if code == "table-coverage-too-low":
        details: Any = problem["details"]
        assert details["unknown"] == ["other"]
        assert {"input", FLAT} <= set(details["missing"])
        assert imported(http, content, min_coverage=0)["unknown"] == 1


def test_a_hundred_megabytes_are_refused_before_they_come(http: httpx.Client) -> None:
    assert_problem(post(http, b"x" * (100 << 20)), 413, "payload-too-large")

    def chunks() -> Any:
        yield b"TRT-8601-MinMaxCalibration\n"
        for number in range(1900):
            yield f"{number}:".encode() * 9000

    answer = http.post("/v1/tables/import", params={"model": "legacy"}, content=chunks())
    assert_problem(answer, 413, "payload-too-large")


def test_a_job_builds_from_the_table_that_it_names(http: httpx.Client) -> None:
    table = imported(http, cache("entropy"), fill="neighbours")
    spec = {"model": "legacy", "dataset": None, "table": table["id"], "judge": {"dataset": "digits-test", "images": 1500}}
    job = succeeded(run(http, spec))
    assert (job["table_id"], job["cache"]["table"]) == (table["id"], "hit")
    report = http.get(job["report_url"]).json()
    assert report["accuracy_fp32"] == pytest.approx(0.9707, abs=1e-3)
    assert report["accuracy_int8"] == pytest.approx(0.624, abs=0.02)  # so bad is TensorRT's own table on this net
    assert (report["judged_on"], report["method"]) == ("judge dataset", "EntropyCalibration")
    again = succeeded(run(http, spec))
    assert (again["attempt"], again["engine_id"]) == (0, job["engine_id"])
    own = succeeded(run(http, spec | {"dataset": "digits-test", "judge": {"images": 100}}))
    assert http.get(own["report_url"]).json()["judged_on"] == "perhaps calibration"
    assert "perhaps_judged_on_calibration" in own["warnings"]


def test_what_a_table_was_calibrated_on_is_told(http: httpx.Client) -> None:
    """A computed table says so; the imported one of the same content says nothing, and its report is another."""
    computed = succeeded(run(http, {"model": "legacy", "calibration": {"method": "minmax"}, "judge": {"images": 100}}))
    exported = http.get(f"/v1/tables/{computed['table_id']}/export", params={"format": "trt"}).content
    named = {"model": "legacy", "dataset": "digits-calibration", "judge": {"images": 100}}
    tables = {computed["table_id"]: "calibration", imported(http, exported)["id"]: "perhaps calibration"}
    for table, expected in tables.items():
        job = succeeded(run(http, named | {"table": table}))
        assert http.get(job["report_url"]).json()["judged_on"] == expected
    other = succeeded(run(http, named | {"dataset": "digits-test", "table": computed["table_id"]}))
    assert http.get(other["report_url"]).json()["judged_on"] == "held out"


def test_a_named_table_must_fit_the_job(http: httpx.Client) -> None:
    table = imported(http, cache("minmax"))["id"]
    base: dict[str, Any] = {"model": "legacy", "dataset": "digits-test", "table": table}
    net = Net(["N", 1, 28, 28])
    net.conv("input", "output", 1, 16)
    http.put("/v1/models/other-net", content=net.model({"output": ["N", 16, 28, 28]}).SerializeToString())
    for change in ({"engine": None}, {"model": "other-net"}, {"quantize": {"equalize": True}}):
        assert_problem(http.post("/v1/jobs", json=base | change), 422, "invalid-spec")
    assert_problem(http.post("/v1/jobs", json=base | {"table": "tbl_nobody"}), 404, "not-found")


def test_the_report_says_what_changes_against_implicit_quantization(http: httpx.Client) -> None:
    table = imported(http, cache("entropy2"))
    report = http.get(f"/v1/tables/{table['id']}/qdq/report").json()
    migration = report["migration"]
    assert (migration["tensors"]["cache"], migration["tensors"]["pairs"]) == (16, report["activations"])
    lost = {row["tensor"]: row["reason"] for row in migration["tensors"]["lost"]}
    assert "fusion" in lost["/0/Conv_output_0"]
    assert "output" in lost["output"]
    assert {row["scales"] for row in migration["weights"]} == {"channel"}
    assert len(migration["weights"]) == report["weights"] == migration["bias"]["float"] == 7
    assert {row["weight"] for row in migration["weights"]} <= {tensor.name for tensor in onnx.load(MODEL).graph.initializer}
    assert [row["node"] for row in migration["layers"]["float"]][:1] == ["/8/GlobalAveragePool"]
    assert migration["dropped"]["constants"] == ["10.weight_output", "10.bias_output"]
    excluded = http.get(f"/v1/tables/{table['id']}/qdq/report", params={"exclude": "/3/Conv"}).json()["migration"]
    assert {"node": "/3/Conv", "op": "Conv", "reason": "excluded by /3/Conv"} in excluded["layers"]["float"]
    fused = http.get(f"/v1/tables/{table['id']}/qdq/report", params={"placement": "fused"}).json()["migration"]
    assert "10.weight" in {row["weight"] for row in fused["weights"]}
    assert "a convolution now" in {row["tensor"]: row["reason"] for row in fused["tensors"]["lost"]}[FLAT]


def test_an_engines_report_says_which_layers_are_not_int8_and_why(http: httpx.Client) -> None:
    job = succeeded(run(http, {"calibration": {"method": "minmax"}, "quantize": {"exclude": ["/3/Conv"]}}))
    report = http.get(f"/v1/engines/{job['engine_id']}/report").json()
    built = report["engine"]
    assert built["plan_bytes"] == http.get(f"/v1/engines/{job['engine_id']}").json()["bytes"]
    assert built["weights_bytes"] == sum(built["weights"].values()) < built["plan_bytes"]
    assert built["weights"]["int8"] > 0
    assert built["layers"]["int8"] + built["layers"]["float"] == 7
    told = {row["node"]: (row["decided_by"], row["reason"]) for row in built["not_int8"]}
    assert told["/3/Conv"] == ("quantizer", "excluded by /3/Conv")
    assert told["/10/Gemm"][0] == "onnxruntime"
    assert "float output" in told["/10/Gemm"][1]
    assert len(told) == built["layers"]["float"]
    assert report["agreement"] > 0.9


def test_an_engine_without_a_judge_has_a_report_of_its_build(http: httpx.Client) -> None:
    spec = {"dataset": None, "calibration": None, "engine": {"precision": "fp32"}}
    built = http.get(f"/v1/engines/{succeeded(run(http, spec))['engine_id']}/report").json()["engine"]
    assert (built["asked_int8"], built["not_int8"], built["layers"]["int8"]) == (0, [], 0)
    assert built["weights"]["float32"] == built["weights_bytes"] - built["weights"].get("int64", 0)


def test_names_with_colons_are_names(http: httpx.Client) -> None:
    net = Net(["N", 16, 8, 8])
    net.node("Relu", [net.conv("input", "a:0", 16, 16)], "b: 1")
    net.conv("b: 1", "output", 16, 16)
    http.put("/v1/models/colons", content=net.model({"output": ["N", 16, 8, 8]}).SerializeToString())
    scales = {"input": np.float32(0.5), "b: 1": np.float32(0.25)}
    for content in (b"TRT-8601-MinMaxCalibration\ninput: 3f000000\nb: 1: 3e800000\n", format_ort_table(scales)):
        table = http.post("/v1/tables/import", params={"model": "colons"}, content=content)
        assert table.status_code == 201, table.text
        text = http.get(f"/v1/tables/{table.json()['id']}/export").text
        assert "b: 1: 3e800000\n" in text
    own = {"format": "enginesmith-table-1", "amax": {name: 127 * float(scale) for name, scale in scales.items()}}
    assert http.post("/v1/tables/import", params={"model": "colons"}, content=json.dumps(own)).status_code == 201
