"""quantize.equalize over HTTP: observed on the equalized model, built from it, judged, and never mixed with the other."""

import io
from typing import Any

import httpx
import onnx
import pytest

from app.api.tables import QuantizeQuery, spec_for_table
from app.db.rows import TableRow
from app.errors import TableProblem
from tests.api.test_jobs import run, succeeded
from tests.api.test_uploads import assert_problem, members, zip_of
from tests.quant.test_equalize import uneven_net
from tests.running import CALIBRATION

PREPROCESS = {"size": [16, 16], "color": "RGB", "layout": "NCHW"}


@pytest.fixture(scope="module")
def spec(server) -> dict[str, object]:
    files = dict(list(members(CALIBRATION).items())[440:480])
    with server.client() as client:
        assert client.put("/v1/models/uneven", content=uneven_net().SerializeToString()).status_code in (200, 201)
        assert client.put("/v1/datasets/uneven", content=zip_of(files)).status_code in (200, 201)
    calibration = {"method": "minmax", "max_images": 20}
    return {"model": "uneven", "dataset": "uneven", "preprocess": PREPROCESS, "calibration": calibration}


def test_equalized_engine_is_nearer_to_the_model(http: httpx.Client, spec: dict[str, object]) -> None:
    plain = succeeded(run(http, spec))
    better = succeeded(run(http, spec | {"quantize": {"equalize": True}}))
    assert better["cache"]["observation"] == "miss"
    assert "equalize changed" in better["cache"]["reason"]
    errors = [http.get(job["report_url"]).json()["mean_error"] for job in (plain, better)]
    assert errors[1] < errors[0] / 2
    quantize = http.get(f"/v1/engines/{better['engine_id']}").json()["quantize"]
    assert [row["first"] for row in quantize["equalized"]] == ["wide_node", "deep_node"]
    told = [http.get(job["report_url"]).json()["engine"]["equalized"] for job in (plain, better)]
    assert told == [[], quantize["equalized"]]
    uneven, even = ({row["weight"]: row["ratio"] for row in channels_of(http, job)} for job in (plain, better))
    assert quantize["channels"] == channels_of(http, better)
    assert max(uneven.values()) > 100 > max(even.values()) >= 1


def test_equalized_table_stays_with_the_equalized_model(http: httpx.Client, spec: dict[str, object]) -> None:
    job = succeeded(run(http, spec | {"quantize": {"equalize": True}, "engine": None}))
    export = f"/v1/tables/{job['table_id']}/export"
    for wanted in ("trt", "ort"):
        assert_problem(http.get(export, params={"format": wanted}), 422, "unsupported-option")
    assert http.get(export, params={"format": "json"}).status_code == 200
    model = onnx.load(io.BytesIO(http.get(f"/v1/tables/{job['table_id']}/qdq").content))
    names = {tensor.name for tensor in model.graph.initializer}
    assert any("_equalized" in name for name in names)


def channels_of(http: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    return http.get(job["report_url"]).json()["engine"]["channels"]


@pytest.mark.parametrize("facts", [{"observation": {"equalize": "cross-layer/0"}}, {"equalizer": "cross-layer/0"}])
def test_a_stored_table_that_was_equalized_otherwise_is_refused(facts: dict[str, object]) -> None:
    with pytest.raises(TableProblem, match="calibrate again"):
        spec_for_table(QuantizeQuery(), TableRow(facts=facts))
