"""A migration with images: the form's answer leads to a report that tells what INT8 costs against FP32."""

import re
from typing import Any

import httpx
import pytest

from tests.api.test_migration import cache
from tests.api.test_table_imports import blobs
from tests.api.test_uploads import assert_problem, members, zip_of
from tests.running import CALIBRATION, MODEL, TEST_DIGITS


def migrate(http: httpx.Client, images: bytes | None, **params: Any) -> httpx.Response:
    files = {"model": ("old.onnx", MODEL.read_bytes()), "cache": ("old.cache", cache("minmax"))}
    sent = files | ({"images": ("photos.zip", images)} if images is not None else {})
    return http.post("/v1/tables/migrate", params=params, files=sent)


def report_place(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    found = re.fullmatch(r'<(\S+)>; rel="describedby"', answer.headers["link"])
    assert found is not None
    return found[1]


def told(http: httpx.Client, place: str) -> dict[str, Any]:
    response = http.get(place)
    assert response.status_code == 200, response.text
    return response.json()


def some_digits(count: int = 40) -> dict[str, bytes]:
    return dict(list(members(TEST_DIGITS).items())[:count])


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
def test_the_report_tells_what_the_very_file_costs(http: httpx.Client, float_type: str) -> None:
    answer = migrate(http, TEST_DIGITS.read_bytes(), placement="fused", float_type=float_type)
    assert http.get(answer.headers["content-location"]).content == answer.content
    report = told(http, report_place(answer))
    judge, tensors = report["judge"], report["migration"]["tensors"]
    assert (tensors["pairs"], tensors["gained"], tensors["changed"]) == (report["activations"], [], [])
    assert (report["digest"], judge["float_type"]) == (answer.headers["etag"].strip('"'), float_type)
    assert (judge["images"], judge["judged_on"], judge["method"]) == (1500, "judge dataset", "MinMaxCalibration")
    assert judge["accuracy_fp32"] == pytest.approx(0.9707, abs=1e-3)
    assert judge["accuracy_int8"] == pytest.approx(judge["accuracy_fp32"], abs=0.005)
    assert 0.99 < judge["agreement"] < 1
    assert told(http, "/v1/datasets/photos")["images"] == 1500


def test_so_many_images_are_compared_on_as_were_asked_for(http: httpx.Client) -> None:
    place = report_place(migrate(http, zip_of(some_digits()), judge_images=10, preprocess='{"scale": 0.001}'))
    judge = told(http, place)["judge"]
    assert judge["images"] == 10
    plain = told(http, report_place(migrate(http, zip_of(some_digits()), judge_images=10)))["judge"]
    assert plain["mean_error"] != judge["mean_error"]


def test_without_images_there_is_a_report_without_accuracy(http: httpx.Client) -> None:
    report = told(http, report_place(migrate(http, None, exclude="/3/Conv")))
    assert report["judge"] is None
    assert "/3/Conv" in {row["node"] for row in report["kept_float"]}


def test_fp8_has_no_engine_here_to_be_compared(http: httpx.Client) -> None:
    answer = migrate(http, TEST_DIGITS.read_bytes(), format="fp8")
    assert "images" in str(assert_problem(answer, 422, "unsupported-option")["detail"])
    without = migrate(http, None, format="fp8")
    assert told(http, report_place(without))["migration"]["tensors"]["changed"] == []


def test_the_job_is_shown_while_it_runs(http: httpx.Client) -> None:
    place = report_place(migrate(http, TEST_DIGITS.read_bytes(), exclude="/3/Conv", placement="conservative"))
    early = http.get(place, params={"wait": 0} | dict(httpx.URL(place).params))
    # A job starts processes, one after the other, and compares 1,500 images: it runs longer than a request takes.
    assert early.status_code == 202
    assert early.json()["id"] == httpx.URL(place).params["job"]
    assert early.headers["location"] == f"/v1/jobs/{early.json()['id']}"
    assert told(http, place)["judge"]["images"] == 1500


def test_a_job_about_another_model_tells_nothing_of_this_one(http: httpx.Client) -> None:
    place = report_place(migrate(http, zip_of(some_digits())))
    other = report_place(migrate(http, zip_of(some_digits()), exclude="/3/Conv"))
    crossed = dict(httpx.URL(place).params) | {"exclude": "/3/Conv"}
    assert_problem(http.get(httpx.URL(place).path, params=crossed), 422, "invalid-spec")
    assert_problem(http.get(place.replace("job=job_", "job=job_x")), 404, "not-found")
    assert told(http, other)["judge"]["images"] == 40


def test_bad_images_are_refused_and_nothing_is_stored(server: Any, http: httpx.Client) -> None:
    before, tables, jobs = blobs(server), http.get("/v1/tables").json(), http.get("/v1/jobs").json()
    text = zip_of({"a.txt": b"no image"})
    refused: list[tuple[bytes | None, dict[str, Any], str]] = [
        (b"no archive", {}, "archive-invalid"),
        (b"", {}, "archive-invalid"),
        (text, {}, "image-unsupported-format"),
        (zip_of({"../x.png": next(iter(some_digits(1).values()))}), {}, "archive-unsafe-path"),
        (zip_of(some_digits(3)), {"preprocess": "nobody"}, "invalid-spec"),
        (zip_of(some_digits(3)), {"preprocess": "{"}, "invalid-spec"),
        (zip_of(some_digits(3)), {"preprocess": '{"color": "RGB"}'}, "input-layout-mismatch"),
        (zip_of(some_digits(3)), {"judge_images": 0}, "invalid-spec"),
        (None, {"judge_images": 5}, "invalid-spec"),
        (None, {"preprocess": "unit"}, "invalid-spec"),
    ]
    for images, params, code in refused:
        assert_problem(migrate(http, images, **params), 422, code)
    assert (blobs(server), http.get("/v1/tables").json(), http.get("/v1/jobs").json()) == (before, tables, jobs)


def test_an_image_that_cannot_be_decoded_is_named_in_the_report(http: httpx.Client) -> None:
    picture = next(iter(members(CALIBRATION).values()))
    answer = migrate(http, zip_of(some_digits(3) | {"broken.png": picture[: len(picture) // 2]}))
    problem = assert_problem(http.get(report_place(answer)), 422, "judge-failed")
    assert "broken.png" in str(problem["detail"])
    assert http.get(answer.headers["content-location"]).content == answer.content
