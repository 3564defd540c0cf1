"""Zero points over HTTP: a job asks for them, the table brings what they need, also where it came back as JSON."""

import httpx
import onnx
from onnx import numpy_helper

from tests.api.test_jobs import run, succeeded
from tests.api.test_uploads import assert_problem
from tests.running import TEST_DIGITS


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
