"""Nets that others have published, the whole way over HTTP: upload, calibrate, build, judge, every placement, a cache."""

import io

import httpx
import onnx
import pytest

from app.quant.placement import PLACEMENTS
from tests.api.test_jobs import run, succeeded
from tests.quant.published import published_path


@pytest.mark.parametrize("name", ["orientation", "face-refinement"])
def test_the_whole_way(http: httpx.Client, name: str) -> None:
    """One net is NCHW from Paddle, one NHWC from Keras; both have a dynamic batch and a picture of fixed size."""
    assert http.put(f"/v1/models/{name}", content=published_path(name).read_bytes()).status_code in (200, 201)
    spec = {"model": name, "calibration": {"method": "minmax", "max_images": 12}, "judge": {"images": 12}}
    job = succeeded(run(http, spec))
    assert http.get(job["report_url"]).json()["images"] == 12
    for placement in PLACEMENTS:
        content = http.get(f"/v1/tables/{job['table_id']}/qdq", params={"placement": placement}).content
        onnx.checker.check_model(onnx.load(io.BytesIO(content)), full_check=True)
    told = http.get(f"/v1/tables/{job['table_id']}/export").content
    back = http.post("/v1/tables/import", params={"model": name}, content=told).json()
    assert (back["unknown"], back["missing"], back["coverage"]) == (0, 0, 1.0)
