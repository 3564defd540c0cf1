"""A migration whose cache lacks ranges: they are measured on the form's images, or on a dataset that is there."""

from typing import Any

import httpx
import onnx
import pytest

from app.quant.foreign import parse_foreign
from app.quant.table import scales_from_table
from tests.api.test_migration import cache
from tests.api.test_migration_images import report_place, some_digits, told
from tests.api.test_table_imports import blobs
from tests.api.test_uploads import assert_problem, members, zip_of
from tests.running import CALIBRATION, MODEL

LACKED = ("input", "/5/Relu_output_0")


def partly() -> bytes:
    """TensorRT's min-max cache of the 500 calibration digits without two of its lines."""
    lines = cache("minmax").decode().splitlines()
    return "\n".join(line for line in lines if not line.startswith(LACKED)).encode()


def migrate(http: httpx.Client, images: bytes | None = None, text: bytes | None = None, **params: Any) -> httpx.Response:
    files = {"model": ("measured.onnx", MODEL.read_bytes()), "cache": ("old.cache", text or partly())}
    sent = files | ({"images": ("lacked.zip", images)} if images is not None else {})
    return http.post("/v1/tables/migrate", params={"fill": "minmax-from-dataset"} | params, files=sent)


@pytest.fixture(scope="module")
def digits(server: Any) -> bytes:
    """The digits that the cache was made of."""
    with server.client() as client:
        client.put("/v1/datasets/digits-calibration", content=CALIBRATION.read_bytes())
    return CALIBRATION.read_bytes()


def scales_in(content: bytes) -> dict[str, float]:
    model = onnx.load_from_string(content)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {node.input[0]: float(values[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize("is_stored", [False, True])
def test_what_the_cache_lacks_is_measured_and_nothing_else(http: httpx.Client, digits: bytes, is_stored: bool) -> None:
    answer = migrate(http, None, dataset="digits-calibration") if is_stored else migrate(http, digits)
    place = report_place(answer)
    report = told(http, place)
    assert {name: row["rule"] for name, row in report["migration"]["filled"].items()} == dict.fromkeys(LACKED, "minmax")
    assert (report["origin"], report["judge"] is None) == ("derived", is_stored)
    theirs = scales_from_table(parse_foreign(cache("minmax")).table)
    for name, scale in scales_in(answer.content).items():
        assert scale == pytest.approx(float(theirs[name]), rel=2e-6 if name in LACKED else 0)
    assert http.get(answer.headers["content-location"]).content == answer.content


def test_a_dataset_is_measured_on_and_images_are_compared_on(http: httpx.Client, digits: bytes) -> None:
    few = zip_of(some_digits(30))
    answer = migrate(http, few, dataset="digits-calibration", judge_images=20)
    assert scales_in(answer.content) == scales_in(migrate(http, None, dataset="digits-calibration").content)
    assert told(http, report_place(answer))["judge"]["images"] == 20
    assert scales_in(migrate(http, few).content) != scales_in(answer.content)


def test_the_job_is_shown_while_it_measures_and_the_same_request_goes_on_from_there(http: httpx.Client) -> None:
    images = zip_of(dict(list(members(CALIBRATION).items())[:123]))
    early = migrate(http, images, wait=0)
    assert early.status_code == 202, early.text
    assert early.headers["location"] == f"/v1/jobs/{early.json()['id']}"
    job = http.get(early.headers["location"], params={"wait": 60}).json()
    assert job["state"] == "succeeded"
    tables = http.get("/v1/tables").json()["items"]
    answer = migrate(http, images, wait=0)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert job["table_id"] in {table["id"] for table in tables}


def test_least_and_greatest_values_are_measured_for_zero_points(http: httpx.Client, digits: bytes) -> None:
    whole = cache("minmax")
    zero_points = {}
    for extremes in (False, True):
        params = {"fill": "neighbours", "extremes": extremes, "asymmetric": True}
        answer = migrate(http, digits, whole, **params) if extremes else migrate(http, None, whole, **params)
        report = told(http, report_place(answer))
        zero_points[extremes] = report["migration"]["tensors"]["zero_points"]
    assert zero_points[True] > zero_points[False] > 0


def test_a_cache_that_lacks_nothing_needs_no_job(http: httpx.Client, digits: bytes) -> None:
    before = http.get("/v1/jobs").json()["items"][0]["id"]
    answer = migrate(http, None, cache("minmax"), dataset="digits-calibration", wait=0)
    assert answer.status_code == 200
    assert told(http, report_place(answer))["origin"] == "imported"
    assert http.get("/v1/jobs").json()["items"][0]["id"] == before


def test_what_cannot_be_measured_is_refused_and_nothing_is_stored(server: Any, http: httpx.Client, digits: bytes) -> None:
    before, tables, jobs = blobs(server), http.get("/v1/tables").json(), http.get("/v1/jobs").json()
    few = zip_of(some_digits(3))
    refused: list[tuple[bytes | None, dict[str, Any], int, str]] = [
        (None, {}, 422, "invalid-spec"),
        (None, {"fill": "neighbours", "extremes": True}, 422, "invalid-spec"),
        (None, {"fill": "neighbours", "dataset": "digits-calibration"}, 422, "invalid-spec"),
        (None, {"dataset": "nobody"}, 404, "not-found"),
        (few, {"dataset": "nobody"}, 404, "not-found"),
        (few, {"preprocess": "nobody"}, 422, "invalid-spec"),
        (None, {"dataset": "digits-calibration", "preprocess": '{"color": "RGB"}'}, 422, "input-layout-mismatch"),
        (None, {"dataset": "digits-calibration", "judge_images": 5}, 422, "invalid-spec"),
        (b"no archive", {}, 422, "archive-invalid"),
        (few, {"min_coverage": 1}, 422, "table-coverage-too-low"),
        (few, {"exclude": "nobody"}, 422, "invalid-spec"),
        (few, {"wait": 61}, 422, "invalid-spec"),
    ]
    for images, params, status, code in refused:
        assert_problem(migrate(http, images, **params), status, code)
    assert (blobs(server), http.get("/v1/tables").json(), http.get("/v1/jobs").json()) == (before, tables, jobs)


def test_images_that_cannot_be_measured_on_are_named(http: httpx.Client) -> None:
    picture = next(iter(members(CALIBRATION).values()))
    answer = migrate(http, zip_of(some_digits(3) | {"broken.png": picture[: len(picture) // 2]}))
    assert "broken.png" in str(assert_problem(answer, 422, "calibration-failed")["detail"])
