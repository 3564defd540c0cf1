"""TensorRT's parser and its real caches name the same tensors, and our rule names what it adds to the model's own."""

from pathlib import Path

import pytest

from app.engines.network_tensors import find_network_tensors
from app.quant.graph import find_activations
from app.quant.inner import inner_bounds
from app.quant.trt_names import constant_amax
from tests.quant.nets import Net
from tests.quant.samples import assets, digits_model, efficientnet_model, parse_oracle
from tests.running import MODEL

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed", exc_type=ImportError)


def test_the_parser_lists_just_what_tensorrt_wrote_into_its_cache() -> None:
    found = find_network_tensors(MODEL)
    assert found is not None
    assert {tensor.name for tensor in found} == parse_oracle("entropy2").keys()


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_constants_get_the_very_range_that_tensorrt_gave_them(method: str) -> None:
    theirs = parse_oracle("entropy2" if method == "entropy" else method)
    ours = constant_amax(digits_model().graph, method)
    assert ours.keys() == {"10.weight_output", "10.bias_output"}
    for name, amax in ours.items():
        assert amax / 127 == pytest.approx(float(theirs[name]), rel=1e-7)


def test_the_product_inside_a_gemm_is_bounded() -> None:
    theirs = parse_oracle("minmax")
    ((name, bound),) = inner_bounds(digits_model().graph, {"output": 127 * float(theirs["output"])}).items()
    assert name == "/10/Gemm_output"
    assert float(theirs[name]) <= bound / 127 <= 1.02 * float(theirs[name])


def test_only_constants_products_and_helpers_come_on_top_of_the_models_activations() -> None:
    model = efficientnet_model()
    found = find_network_tensors(assets() / "efficientnet-lite0.onnx")
    assert found is not None
    beside = {tensor.name for tensor in found} - set(find_activations(model))
    assert beside == {"_fc.weight_output", "_fc.bias_output", "/_fc/Gemm_output", "ONNXTRT_Broadcast_output"}
    assert constant_amax(model.graph, "minmax").keys() == {"_fc.weight_output", "_fc.bias_output"}


def test_a_model_that_the_parser_refuses_is_told_apart(tmp_path: Path) -> None:
    net = Net(["N", 4])
    net.node("NoSuchOperator", ["input"], "output")
    (tmp_path / "no.onnx").write_bytes(net.model({"output": ["N", 4]}).SerializeToString())
    assert find_network_tensors(tmp_path / "no.onnx") is None
