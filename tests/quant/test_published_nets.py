"""Prepare, quantize, import and export on nets that others have published."""

import numpy as np
import onnx
import pytest

from app.engines.network_tensors import find_network_tensors
from app.errors import ModelAlreadyQuantized
from app.quant.coverage import match_names
from app.quant.foreign import parse_foreign
from app.quant.graph import find_activations, find_needed_tensors, prepare_model
from app.quant.inner import inner_bounds
from app.quant.neighbours import fill_from_neighbours
from app.quant.ort_table import format_ort_table
from app.quant.placement import PLACEMENTS
from app.quant.qdq import quantize_model
from app.quant.table import Table, scales_from_table
from app.quant.trt_cache import format_trt_cache
from app.quant.trt_names import constant_amax
from app.spec import QuantizeSpec
from tests.quant.nets import run
from tests.quant.published import (
    NETS,
    QUANTIZED_ALREADY,
    package_file,
    published_amax,
    published_batch,
    published_model,
    published_path,
)


def live(name: str) -> dict[str, float]:
    return {tensor: amax for tensor, amax in published_amax(name).items() if amax > 1e-30}


@pytest.mark.parametrize("name", NETS)
def test_preparing_changes_no_output_and_loses_no_needed_tensor(name: str) -> None:
    model, batch = published_model(name), published_batch(name)
    prepared = prepare_model(model)
    for output, value in run(model, batch).items():
        np.testing.assert_allclose(run(prepared, batch)[output], value, atol=1e-4)
    assert set(find_needed_tensors(model)) <= set(find_activations(model))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NETS)
def test_every_placement_is_valid_and_runs(name: str, placement: str) -> None:
    model, batch = published_model(name), published_batch(name)
    scales = {tensor: amax / 127 for tensor, amax in live(name).items()}
    dead = published_amax(name).keys() - scales.keys()
    result = quantize_model(model, scales, QuantizeSpec.model_validate({"placement": placement}), dead)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report["multiply_adds_int8"] > 0.5
    for output, value in run(model, batch).items():
        found = run(result.model, batch)[output]
        assert found.shape == value.shape
        assert np.abs(found - value).mean() < 0.2


@pytest.mark.parametrize("name", NETS)
def test_caches_go_out_and_in_bit_for_bit(name: str) -> None:
    scales = scales_from_table(Table(live(name)))
    for content in (format_trt_cache(scales, "8.6.1").encode(), format_ort_table(scales)):
        read = parse_foreign(content)
        assert scales_from_table(read.table) == scales
        coverage = match_names(published_model(name), read.table.amax)
        assert (coverage.unknown, coverage.internal, coverage.constants) == ([], [], [])
        assert set(coverage.missing) == set(coverage.needed) - scales.keys()


@pytest.mark.parametrize("name", NETS)
def test_what_neighbours_fill_is_never_below_the_truth(name: str) -> None:
    truth = live(name)
    hidden = list(truth)[::3]
    known = {tensor: amax for tensor, amax in truth.items() if tensor not in set(hidden)}
    filled = fill_from_neighbours(published_model(name), known, hidden)
    assert filled
    for tensor, found in filled.items():
        assert found.amax >= truth[tensor] * (1 - 1e-6), (tensor, found)


@pytest.mark.parametrize("name", NETS)
def test_tensorrts_parser_asks_for_activations_constants_and_its_own_helpers(name: str) -> None:
    network = find_network_tensors(published_path(name))
    if network is None:
        pytest.skip("tensorrt-rtx-cu13 is not installed")
    model = published_model(name)
    graph, amax = model.graph, dict.fromkeys(find_activations(model), 1.0)
    known = amax.keys() | constant_amax(graph, "minmax").keys() | inner_bounds(graph, amax).keys()
    helpers = [tensor for tensor in network if tensor.name not in known]
    # each helper hands on a tensor's values, or bounds them: a cache can list them all, but for what is inside a loop,
    # where TensorRT has no INT8
    bare = [tensor.name for tensor in helpers if tensor.same_as is None and tensor.amax is None]
    assert bool(bare) == any(node.op_type == "LSTM" for node in graph.node), bare
    coverage = match_names(model, dict.fromkeys((tensor.name for tensor in network), 1.0))
    assert coverage.unknown == []


def test_a_net_that_is_quantized_already_is_refused_by_name() -> None:
    scales = {tensor: amax / 127 for tensor, amax in live("classifier").items()}
    dead = published_amax("classifier").keys() - scales.keys()
    quantized = quantize_model(published_model("classifier"), scales, QuantizeSpec(), dead).model
    with pytest.raises(ModelAlreadyQuantized, match="QuantizeLinear"):
        prepare_model(quantized)


def test_a_net_that_its_author_quantized_is_refused_by_name() -> None:
    with pytest.raises(ModelAlreadyQuantized, match="DynamicQuantizeLinear"):
        prepare_model(onnx.load(package_file(QUANTIZED_ALREADY)))
