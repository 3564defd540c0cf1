"""The cache text that an implicit build is given."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.engines.network_tensors import parser_name
from app.quant.graph import find_activations
from app.quant.table import Table, table_from_scales, table_to_text
from app.quant.trt_cache import parse_trt_cache
from app.quant.trt_names import INTERNAL_PREFIXES, constant_amax, find_constant_names
from app.worker.steps.build import write_cache
from app.worker.steps.export_cache import export_cache
from tests.observers.oracles import ORACLES, Method, Oracle
from tests.quant.samples import parse_oracle
from tests.running import MODEL


@pytest.mark.parametrize("kept", [{}, {"10.weight_output": 127 * 0.5}])
def test_constants_are_those_that_were_imported_else_measured(tmp_path: Path, kept: dict[str, float]) -> None:
    scales = {name: scale for name, scale in parse_oracle("minmax").items() if name in ("input", "output")}
    (tmp_path / "table").write_text(table_to_text(table_from_scales(scales)), encoding="utf-8")
    request = {"model": str(MODEL), "table": str(tmp_path / "table"), "native_cache": None, "kept": kept}
    found = parse_trt_cache(write_cache(request | {"out": str(tmp_path / "plan")}).read_bytes()).scales
    assert scales.items() <= found.items()
    measured = float(parse_oracle("minmax")["10.weight_output"])
    assert found["10.weight_output"] == pytest.approx(0.5 if kept else measured, rel=1e-6)
    assert found["10.bias_output"] == pytest.approx(float(np.float32(parse_oracle("minmax")["10.bias_output"])), rel=1e-6)


def test_what_tensorrt_itself_wrote_is_taken_as_it_is(tmp_path: Path) -> None:
    request = {"model": str(MODEL), "table": "", "native_cache": str(tmp_path / "own"), "kept": {}, "out": ""}
    assert write_cache(request) == tmp_path / "own"


@pytest.fixture(params=["parser", "rule"])
def names_from(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the names of what TensorRT adds come from: its own parser, or our rule where none is installed."""
    if request.param == "rule":
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    elif parser_name() is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    return request.param


@pytest.mark.parametrize("method", ["entropy2", "minmax"])
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
@pytest.mark.usefixtures("names_from")
def test_the_cache_of_a_table_lists_what_tensorrt_itself_listed(tmp_path: Path, oracle: Oracle, method: Method) -> None:
    model = oracle.save(tmp_path)
    scales = oracle.scales(method, find_activations(onnx.load(model)))
    amax = {name: 127 * float(scale) for name, scale in scales.items()}
    table = tmp_path / "table"
    table.write_text(table_to_text(Table(amax, method=method.removesuffix("2"))), encoding="utf-8")
    told = export_cache({"model": str(model), "table": str(table), "kept": {}, "listed": []}, lambda _event: None)
    theirs = parse_trt_cache(oracle.cache(method))
    # Those are numbered by the version of the parser.
    assert {name for name in theirs.scales if not name.startswith(INTERNAL_PREFIXES)} <= told["amax"].keys()
    assert {name for name in told["missing"] if not name.startswith(INTERNAL_PREFIXES)} <= set(theirs.zeros)
    for name in set(told["added"]) & {*theirs.scales, *theirs.zeros}:
        ours = told["amax"][name] / 127
        if name.lower().endswith(("/gemm_output", "gemm_node_output")):
            assert theirs.scales[name] <= ours <= 1.3 * theirs.scales[name]  # a product inside a node is bounded
        elif name == "hardswish_node_output":
            assert ours == pytest.approx(theirs.scales[name], rel=3e-4)  # so is a hard sigmoid
        else:  # zeros are exact at any scale
            assert ours == pytest.approx(1.0 if name in theirs.zeros else theirs.scales[name], rel=2e-6)


@pytest.mark.parametrize("name", ["text-classifier", "text-detector"])
def test_constants_that_are_nodes_are_known_without_a_parser(tmp_path: Path, name: str) -> None:
    (oracle,) = (oracle for oracle in ORACLES if oracle.name == name)
    model = onnx.load(oracle.save(tmp_path))
    theirs = parse_trt_cache(oracle.cache("entropy2")).scales
    ours = constant_amax(model.graph, "entropy")
    fixed = find_constant_names(model.graph)
    assert ours.keys() == {name for name in theirs if name in fixed}
    for tensor, amax in ours.items():
        assert amax / 127 == pytest.approx(float(theirs[tensor]), rel=2e-6), tensor


def test_a_product_without_a_range_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as where it is not installed
    table = tmp_path / "table"
    table.write_text(table_to_text(table_from_scales({"input": 0.01})), encoding="utf-8")
    told = export_cache({"model": str(MODEL), "table": str(table), "kept": {}, "listed": []}, lambda _event: None)
    assert told["names_from"] == "rule"
    assert {"/10/Gemm_output", "output"} <= set(told["missing"])
