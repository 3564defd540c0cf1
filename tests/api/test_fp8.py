"""fp8 over HTTP: a job's engine, the Q/DQ model of a table, and what is refused before any work."""

import httpx
import onnx
import pytest
from onnx import TensorProto

from tests.api.test_jobs import DATASET, has_rtx, run, succeeded
from tests.api.test_uploads import assert_problem

ADA = {"backend": "tensorrt-rtx", "compute_capability": "8.9", "precision": "fp8"}


def stored_types(content: bytes) -> set[int]:
    """Return the types of what a Q/DQ model stores for its pairs."""
    graph = onnx.load_from_string(content).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}


def test_an_fp8_engine_is_built_and_judged(http: httpx.Client) -> None:
    if not has_rtx(http):
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    job = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": ADA, "quantize": {"float_type": "fp16"}}))
    engine = http.get(f"/v1/engines/{job['engine_id']}").json()
    assert (engine["precision"], engine["compute_capability"]) == ("fp8", ["8.9"])
    assert http.get(job["report_url"]).json()["agreement"] > 0.95
    int8 = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": ADA | {"precision": "int8"}}))
    assert int8["table_id"] == job["table_id"]
    assert int8["engine_id"] != job["engine_id"]


def test_a_table_gives_fp8_as_well_as_int8(http: httpx.Client) -> None:
    table = succeeded(run(http, {"calibration": {"method": "minmax"}, "engine": None}))["table_id"]
    assert stored_types(http.get(f"/v1/tables/{table}/qdq?format=fp8").content) == {TensorProto.FLOAT8E4M3FN}
    assert stored_types(http.get(f"/v1/tables/{table}/qdq").content) == {TensorProto.INT8}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"engine": ADA | {"compute_capability": "8.6"}}, "compute-capability-unsupported"),
        ({"engine": ADA | {"quantization": "implicit"}}, "unsupported-option"),
        ({"engine": {"backend": "onnxruntime", "precision": "fp8"}}, "unsupported-option"),
        ({"engine": {"backend": "tensorrt", "precision": "fp8", "quantization": "implicit"}}, "unsupported-option"),
        ({"engine": ADA, "quantize": {"bias_correction": True}}, "unsupported-option"),
        ({"engine": ADA, "quantize": {"exclude": "auto"}}, "unsupported-option"),
        ({"engine": ADA, "judge": {"sensitivity": True}}, "unsupported-option"),
        ({"engine": ADA, "quantize": {"format": "int8"}}, "invalid-spec"),
        ({"quantize": {"format": "fp8"}}, "invalid-spec"),
        ({"quantize": {"format": "fp8", "asymmetric": True}}, "invalid-spec"),
    ],
)
def test_what_cannot_be_is_refused(http: httpx.Client, change: dict, code: str) -> None:
    assert_problem(http.post("/v1/jobs", json=DATASET | change), 422, code)
