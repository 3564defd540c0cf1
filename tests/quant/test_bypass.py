"""Groups of a Q/DQ model back in float: all of them are the float model, none of them the Q/DQ model."""

import numpy as np
import onnx
import pytest

from app.quant.bias_correction import add_to_biases
from app.quant.bypass import group_names, with_float
from app.quant.graph import find_activations
from app.quant.int8_nodes import find_int8_nodes
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import NETS, images, run


def pair(name: str, placement: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = NETS[name]()
    scales = dict.fromkeys(find_activations(model), 0.05)
    result = quantize_model(model, scales, QuantizeSpec.model_validate({"placement": placement}))
    return result.float_model, result.model


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("placement", ["conservative", "default", "fused"])
def test_all_groups_in_float_are_the_float_model(name: str, placement: str) -> None:
    float_model, quantized = pair(name, placement)
    names = group_names(float_model, quantized)
    assert len(names) == len(set(names)) > 0
    assert_same_outputs(float_model, with_float(quantized, float_model, names))
    assert with_float(quantized, float_model, []).SerializeToString() == quantized.SerializeToString()


@pytest.mark.parametrize("name", NETS)
def test_one_group_in_float_leaves_the_others(name: str) -> None:
    float_model, quantized = pair(name, "default")
    names = group_names(float_model, quantized)
    for output in names:
        left = with_float(quantized, float_model, [output])
        onnx.checker.check_model(left, full_check=True)
        assert group_names(float_model, left) == [other for other in names if other != output]


def test_a_corrected_product_is_one_group_with_its_correction() -> None:
    float_model, quantized = pair("attention", "default")
    weighted = [each.output for each in find_int8_nodes(quantized.graph) if each.weight is not None]
    add_to_biases(quantized.graph, {name: np.full(32, 0.25) for name in weighted})
    assert set(weighted) < set(group_names(float_model, quantized))
    left = with_float(quantized, float_model, group_names(float_model, quantized))
    assert not any("BiasCorrection" in node.name for node in left.graph.node)
    assert_same_outputs(float_model, left)


def assert_same_outputs(first: onnx.ModelProto, second: onnx.ModelProto) -> None:
    batch = images(first)
    outputs = run(second, batch)
    for name, values in run(first, batch).items():
        assert np.array_equal(values, outputs[name]), name
