"""TensorRT-RTX takes the Q/DQ models of nets that others have published."""

import pytest

from app.quant.placement import PLACEMENTS
from app.quant.qdq import model_to_bytes, quantize_model
from app.spec import QuantizeSpec
from tests.quant.published import NETS, published_amax, published_model

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.mark.parametrize("name", NETS)
def test_tensorrt_parses_every_placement(name: str) -> None:
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    scales = {tensor: amax / 127 for tensor, amax in published_amax(name).items() if amax > 1e-30}
    dead = published_amax(name).keys() - scales.keys()
    for placement in PLACEMENTS:
        spec = QuantizeSpec.model_validate({"placement": placement, "float_type": "fp16" if placement == "fused" else "fp32"})
        quantized = quantize_model(published_model(name), scales, spec, dead).model
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        is_parsed = parser.parse(model_to_bytes(quantized))
        assert is_parsed, [parser.get_error(number).desc() for number in range(parser.num_errors)]
