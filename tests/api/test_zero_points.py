"""Zero points over HTTP: a job asks for them, the table brings what they need, also where it came back as JSON."""

import httpx
import onnx
from onnx import numpy_helper

from tests.api.test_jobs import run, succeeded
from tests.api.test_uploads import assert_problem
from tests.running import ROOT, TEST_DIGITS


def zero_points(plan: bytes) -> dict[str, int]:
    """Return the zero point of each activation with a pair."""
    graph = onnx.load_from_string(plan).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {node.input[0]: int(stored[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"}


def test_all_steps_are_spent_and_the_outputs_come_nearer(http: httpx.Client) -> None:
    http.put("/v1/datasets/digits-test", content=TEST_DIGITS.read_bytes())
    spec = {"calibration": {"method": "minmax"}, "judge": {"dataset": "digits-test", "images": 1500}}
    plain, better = (succeeded(run(http, spec | {"quantize": {"asymmetric": points}})) for points in (False, True))
    assert plain["table_id"] == better["table_id"]
    sqnr = [http.get(job["report_url"]).json()["outputs"]["output"]["sqnr_db"] for job in (plain, better)]
    assert sqnr[1] > sqnr[0] + 5
    plan = http.get(f"/v1/engines/{better['engine_id']}/plan").content
    assert zero_points(plan)["input"] == -128
    assert set(zero_points(http.get(f"/v1/engines/{plain['engine_id']}/plan").content).values()) == {0}

    table = better["table_id"]
    assert zero_points(http.get(f"/v1/tables/{table}/qdq?asymmetric=true").content) == zero_points(plan)
    exported = http.get(f"/v1/tables/{table}/export?format=json").content
    imported = http.post("/v1/tables/import?model=digits", content=exported).json()["id"]
    assert zero_points(http.get(f"/v1/tables/{imported}/qdq?asymmetric=true").content) == zero_points(plan)


def test_a_cache_gets_zero_points_by_its_operators_or_from_images(http: httpx.Client) -> None:
    cache = (ROOT / "tests" / "oracle" / "mnist-minmax.cache").read_bytes()
    by_operators = http.post("/v1/tables/import?model=digits", content=cache).json()
    options = {"model": "digits", "extremes": True, "dataset": "digits-calibration"}
    measured = http.post("/v1/tables/import", params=options, content=cache)
    if measured.status_code == 202:
        assert http.get(measured.headers["location"], params={"wait": 60}).json()["state"] == "succeeded"
        measured = http.post("/v1/tables/import", params=options, content=cache)
    assert measured.status_code == 201, measured.text
    known = measured.json()
    assert (by_operators["origin"], by_operators["extremes"]) == ("imported", 0)
    assert (known["origin"], known["filled"], known["extremes"]) == ("derived", 0, 9)
    points = [zero_points(http.get(f"/v1/tables/{t['id']}/qdq?asymmetric=true").content) for t in (by_operators, known)]
    assert points[0] == points[1] | {"input": 0}  # that no pixel is below zero no operator says
    assert points[1]["input"] == -128
    less = b"".join(
        line for line in cache.splitlines(keepends=True) if b"/3/Conv_output_0" not in line and b"/5/Relu" not in line
    )
    partial = http.post("/v1/tables/import", params=options, content=less).json()
    assert (partial["filled"], partial["missing"]) == (0, 1)  # extremes fill no gaps
    lacking = http.post("/v1/tables/import?model=digits&extremes=true", content=cache)
    assert "extremes=true" in str(assert_problem(lacking, 422, "invalid-spec")["detail"])


def test_who_takes_no_zero_points_is_told_before_any_work(http: httpx.Client) -> None:
    wrong = {"model": "digits", "dataset": "digits-calibration", "quantize": {"asymmetric": True}}
    engine = {"backend": "tensorrt-rtx", "compute_capability": "8.9"}
    assert_problem(http.post("/v1/jobs", json=wrong | {"engine": engine}), 422, "unsupported-option")
    answer = http.post("/v1/jobs", json=wrong | {"judge": {"float_type": "fp16"}})
    assert_problem(answer, 422, "unsupported-option")
    assert "judge.float_type" in answer.text
    table = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": None}))["table_id"]
    answer = http.get(f"/v1/tables/{table}/qdq?asymmetric=true&float_type=fp16")
    assert_problem(answer, 422, "invalid-spec")
    assert "zero points" in answer.text
