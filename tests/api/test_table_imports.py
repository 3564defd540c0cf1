"""What an imported table is told apart by, which one a job takes, and what zero scales and equalized ranges come to."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest

from tests.api.test_equalize import PREPROCESS
from tests.api.test_jobs import run, succeeded
from tests.api.test_migration import FLAT, cache
from tests.api.test_uploads import assert_problem, members, zip_of
from tests.quant.nets import Net
from tests.quant.test_equalize import uneven_net
from tests.running import CALIBRATION, MODEL, TEST_DIGITS


@pytest.fixture(scope="module", autouse=True)
def _uploaded(server: Any) -> None:
    with server.client() as client:
        client.put("/v1/models/traced", content=MODEL.read_bytes())
        client.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())


@pytest.fixture(scope="module")
def equalizing(server: Any) -> dict[str, Any]:
    """A job on a net whose channels are worth equalizing."""
    files = dict(list(members(CALIBRATION).items())[440:460])
    with server.client() as client:
        client.put("/v1/models/leaky", content=uneven_net("LeakyRelu").SerializeToString())
        client.put("/v1/datasets/leaky", content=zip_of(files))
    return {"model": "leaky", "dataset": "leaky", "preprocess": PREPROCESS, "calibration": {"method": "minmax"}}


def post(http: httpx.Client, content: bytes, **params: Any) -> httpx.Response:
    return http.post("/v1/tables/import", params={"model": "traced"} | params, content=content)


def imported(http: httpx.Client, content: bytes, **params: Any) -> dict[str, Any]:
    response = post(http, content, **params)
    assert response.status_code == 201, response.text
    return response.json()


def changed(name: str, digits: str, content: bytes | None = None) -> bytes:
    """Return TensorRT's own min-max cache with another scale in one of its lines."""
    lines = (content or cache("minmax")).decode().splitlines()
    assert sum(line.startswith(f"{name}: ") for line in lines) == 1
    return "\n".join(f"{name}: {digits}" if line.startswith(f"{name}: ") else line for line in lines).encode() + b"\n"


def exported(http: httpx.Client, table: str, content: bytes) -> bytes:
    _, version, algorithm = content.split(b"\n")[0].decode().split("-")
    return http.get(f"/v1/tables/{table}/export", params={"trt_version": version, "algorithm": algorithm}).content


def own_json(http: httpx.Client, table: str) -> bytes:
    return http.get(f"/v1/tables/{table}/export", params={"format": "json"}).content


def blobs(server: Any) -> set[str]:
    return {path.name for path in Path(server.data / "blobs").rglob("*") if path.is_file()}


def test_caches_that_differ_in_what_is_no_activation_are_two_tables(http: httpx.Client) -> None:
    plain = cache("minmax")
    caches = [plain, changed("10.weight_output", "3c000000"), plain.replace(b"TRT-100600", b"TRT-8601")]
    tables = [imported(http, content)["id"] for content in caches]
    assert len(set(tables)) == len(tables)
    assert [exported(http, table, content) for table, content in zip(tables, caches, strict=True)] == caches
    headers = [http.get(f"/v1/tables/{table}").json()["imported"]["header"] for table in tables]
    assert headers == [content.split(b"\n")[0].decode() for content in caches]
    assert imported(http, plain, fill="neighbours")["id"] not in tables
    assert imported(http, plain)["id"] == tables[0]


def test_the_last_import_is_the_last_one_even_where_it_is_known(http: httpx.Client) -> None:
    first, second = cache("minmax"), changed("input", "3c010203")
    spec = {"model": "traced", "engine": None, "allow_imported": True, "calibration": {"method": "minmax", "max_images": 29}}
    for content in (first, second, first):
        table = imported(http, content)["id"]
        assert succeeded(run(http, spec))["table_id"] == table
    assert http.get("/v1/tables").json()["items"][0]["id"] == table


def test_ranges_of_the_equalized_model_serve_no_other(http: httpx.Client, equalizing: dict[str, Any]) -> None:
    plain = equalizing | {"engine": None}
    even = plain | {"quantize": {"equalize": True}}
    computed = {name: succeeded(run(http, spec))["table_id"] for name, spec in (("plain", plain), ("even", even))}
    bodies = {name: own_json(http, table) for name, table in computed.items()}
    back = {name: imported(http, body, model="leaky")["id"] for name, body in bodies.items()}
    assert {name: own_json(http, table) for name, table in back.items()} == bodies
    assert_problem(http.get(f"/v1/tables/{back['even']}/export"), 422, "unsupported-option")
    for name, spec in (("plain", plain), ("even", even)):
        other = spec | {"calibration": {"method": "mse", "max_images": 19}, "allow_imported": True}
        assert succeeded(run(http, other))["table_id"] == back[name]
    named = plain | {"table": back["even"], "engine": {}}
    assert_problem(http.post("/v1/jobs", json=named), 422, "invalid-spec")
    models = [http.get(f"/v1/tables/{table}/qdq").content for table in (computed["even"], back["even"])]
    assert models[0] == models[1]


def test_a_range_of_an_equalized_table_is_measured_on_the_equalized_model(
    http: httpx.Client,
    equalizing: dict[str, Any],
) -> None:
    spec = equalizing | {"engine": None, "calibration": {"method": "minmax"}, "quantize": {"equalize": True}}
    even, plain = (
        json.loads(own_json(http, succeeded(run(http, each))["table_id"])) for each in (spec, spec | {"quantize": {}})
    )
    name = next(name for name, amax in even["amax"].items() if plain["amax"][name] != amax)
    less = even | {each: {n: known for n, known in even[each].items() if n != name} for each in ("amax", "extremes")}
    options = {"fill": "minmax-from-dataset", "dataset": "leaky", "preprocess": json.dumps(equalizing["preprocess"])}
    table = imported(http, json.dumps(less).encode(), model="leaky", **options)
    assert table["details"]["filled"][name]["amax"] == even["amax"][name]


def test_a_table_equalized_in_another_way_is_refused(http: httpx.Client) -> None:
    table = {"format": "enginesmith-table-1", "amax": {"input": 1.0}, "equalizer": "by hand"}
    problem = assert_problem(http.post("/v1/tables/import", params={"model": "traced"}, json=table), 422, "table-invalid")
    assert "by hand" in str(problem["detail"])


@pytest.mark.parametrize("zero", ["0", "00000000"])
def test_zeros_that_nobody_needs_are_named_and_no_range(http: httpx.Client, zero: str) -> None:
    content = changed("10.bias_output", zero, changed("/0/Conv_output_0", zero))
    table = imported(http, content)
    assert (table["zero"], table["missing"], table["unknown"]) == (2, 0, 0)
    assert table["details"]["zero"] == ["/0/Conv_output_0", "10.bias_output"]
    assert b": 0\n" not in exported(http, table["id"], content)
    assert http.get(f"/v1/tables/{table['id']}/qdq").status_code == 200


def test_a_zero_that_a_quantizer_needs_is_refused_by_name_unless_it_is_filled(http: httpx.Client) -> None:
    flat, relu = changed(FLAT, "0"), changed("/2/Relu_output_0", "0")
    for content, tensor in ((flat, FLAT), (relu, "/2/Relu_output_0")):
        problem = assert_problem(post(http, content), 422, "table-scale-invalid")
        assert tensor in str(problem["detail"])
        assert "fill" in str(problem["detail"])
    assert_problem(post(http, changed("/5/Relu_output_0", "0", changed("/3/Conv_output_0", "0")), fill="neighbours"),
                   422, "table-scale-invalid")  # fmt: skip
    filled = imported(http, flat, fill="neighbours")
    assert (filled["origin"], filled["zero"], list(filled["details"]["filled"])) == ("derived", 1, [FLAT])
    measured = imported(http, relu, fill="minmax-from-dataset", dataset="digits-calibration")
    assert measured["details"]["filled"]["/2/Relu_output_0"]["rule"] == "minmax"


def test_a_tensor_that_measures_as_zero_too_stays_float(http: httpx.Client) -> None:
    net = Net(["N", 1, 28, 28])
    net.conv("input", "first", 1, 16)
    net.node("Mul", ["first", net.constant("nothing", np.zeros(1, np.float32))], "always_zero")
    net.conv("always_zero", "output", 16, 16)
    http.put("/v1/models/partly-dead", content=net.model({"output": ["N", 16, 28, 28]}).SerializeToString())
    text = b"TRT-100600-EntropyCalibration2\ninput: 3c010204\nalways_zero: 0\n"
    options = {"model": "partly-dead", "fill": "minmax-from-dataset", "dataset": "digits-calibration"}
    table = imported(http, text, **options)
    assert http.get(f"/v1/tables/{table['id']}").json()["dead"] == ["always_zero"]
    assert http.get(f"/v1/tables/{table['id']}/qdq").status_code == 200


@pytest.mark.parametrize("digits", ["80000000", "-0", "000000", "00000001", "ff800000"])
def test_no_other_scale_passes_for_zero(http: httpx.Client, digits: str) -> None:
    answer = post(http, changed("10.bias_output", digits))
    assert (answer.status_code, answer.json()["code"][:5]) == (422, "table")
    assert "10.bias_output" in answer.json()["detail"]


def test_a_model_with_nothing_to_quantize_takes_no_cache_of_another(http: httpx.Client) -> None:
    net = Net(["N", 4, 4, 4])
    net.node("Relu", ["input"], "output")
    http.put("/v1/models/nothing", content=net.model({"output": ["N", 4, 4, 4]}).SerializeToString())
    foreign = b"TRT-8601-MinMaxCalibration\nother: 3c010204\n"
    problem = assert_problem(post(http, foreign, model="nothing"), 422, "table-coverage-too-low")
    assert "other" in str(problem["detail"])
    own = b"TRT-8601-MinMaxCalibration\noutput: 3c010204\n"
    assert imported(http, own, model="nothing")["matched"] == 1


def test_one_form_migrates_a_model_and_its_cache(http: httpx.Client) -> None:
    files = {"model": ("Old Net.onnx", MODEL.read_bytes()), "cache": ("old.cache", cache("entropy"))}
    answer = http.post("/v1/tables/migrate", params={"placement": "fused", "exclude": ["/3/Conv", "/10/Gemm"]}, files=files)
    assert answer.status_code == 200, answer.text
    onnx.checker.check_model(onnx.load(io.BytesIO(answer.content)), full_check=True)
    place = answer.headers["content-location"]
    assert http.get(place).content == answer.content
    report = http.get(place.replace("/qdq", "/qdq/report")).json()
    assert {"/3/Conv", "/10/Gemm"} <= {row["node"] for row in report["kept_float"]}
    assert (report["origin"], list(report["migration"]["filled"])) == ("derived", [FLAT])
    assert http.get("/v1/models/old-net").status_code == 200


def test_a_migration_that_is_refused_stores_nothing(server: Any, http: httpx.Client) -> None:
    model = MODEL.read_bytes()
    before = blobs(server)
    refused = {"table-coverage-too-low": b"TRT-8601-MinMaxCalibration\nother: 3c010204\n", "table-invalid": b""}
    for code, content in refused.items():
        assert_problem(http.post("/v1/tables/migrate", files={"model": ("x.onnx", model), "cache": ("c", content)}), 422, code)
    bad = http.post("/v1/tables/migrate", files={"model": ("x.onnx", b"no"), "cache": ("c", cache("minmax"))})
    assert_problem(bad, 422, "model-invalid")
    assert_problem(http.post("/v1/tables/migrate", files={"model": ("x.onnx", model)}), 400, "invalid-request")
    assert_problem(http.post("/v1/tables/migrate", content=model), 415, "unsupported-media-type")
    large = http.post("/v1/tables/migrate", files={"model": ("x.onnx", model), "cache": ("c", b"x" * (65 << 20))})
    assert_problem(large, 413, "payload-too-large")
    lacking = {"model": ("x.onnx", model), "cache": ("c", cache("entropy"))}
    unfit: dict[str, dict[str, Any]] = {
        "table-incomplete": {"fill": "refuse"},
        "invalid-spec": {"exclude": "nobody"},
        "unsupported-option": {"placement": "measured"},
    }
    tables = http.get("/v1/tables").json()["items"]
    for code, params in unfit.items():
        assert_problem(http.post("/v1/tables/migrate", params=params, files=lacking), 422, code)
    assert http.get("/v1/tables").json()["items"] == tables
    assert blobs(server) == before
    assert http.get("/v1/models/x").status_code == 404


def test_a_qdq_model_whose_bytes_were_lost_is_made_anew(server: Any, http: httpx.Client) -> None:
    place = f"/v1/tables/{imported(http, cache('minmax'))['id']}/qdq"
    made = http.get(place, params={"exclude": "/3/Conv"})
    (stored,) = Path(server.data / "blobs").rglob(made.headers["etag"].strip('"'))
    stored.unlink()
    again = http.get(place, params={"exclude": "/3/Conv"})
    assert (again.status_code, again.content) == (200, made.content)


def test_how_a_file_got_spoiled_is_said(http: httpx.Client) -> None:
    plain = cache("minmax")
    assert imported(http, b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))["matched"] > 0  # as editors on Windows save it
    spoiled = {
        "--data-binary": plain.replace(b"\n", b""),
        "UTF-8": plain.decode().encode("utf-16"),
        "control": plain.replace(b"input", b"in\0put"),
    }
    for told, content in spoiled.items():
        assert told in str(assert_problem(post(http, content), 422, "table-invalid")["detail"])
    form = http.post("/v1/tables/import", params={"model": "traced"}, files={"file": plain})
    assert "--data-binary" in str(assert_problem(form, 415, "unsupported-media-type")["detail"])


def test_refused_tables_leave_nothing_behind(server: Any, http: httpx.Client) -> None:
    before = blobs(server)
    for content in (changed("input", "0"), changed("input", "ff800000"), b"TRT-8601-MinMaxCalibration\nother: 3c010204\n"):
        assert post(http, content).status_code == 422
    assert blobs(server) == before
