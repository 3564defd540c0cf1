"""TensorRT-RTX takes the Q/DQ model of every pattern: all are parsed, a dozen are built."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from app.engines.backend import BuildRequest, get_backend
from app.quant.graph import find_needed_tensors
from app.quant.qdq import model_to_bytes, quantize_model
from app.spec import FloatType, Placement, QuantizeSpec, ShapeProfile
from tests.quant.nets import measured_scales
from tests.quant.patterns import PATTERNS
from tests.quant.patterns.pattern import feeds

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

ENDS = sorted({(name, opset) for name, pattern in PATTERNS.items() for opset in (pattern.opsets[0], pattern.opsets[-1])})
MIXES: list[tuple[Placement, FloatType]] = [
    ("conservative", "fp32"),
    ("default", "fp32"),
    ("default", "fp16"),
    ("fused", "fp32"),
    ("fused", "fp16"),
]
#: Built in both float types; each takes well below a second at optimization level 0.
BUILT = """
affine-tail attention concat-branches cut-and-pad deconvolution gemm-forms many-inputs modern-attention nhwc residual
shuffle split-gate squeeze-excite
""".split()


@cache
def scales_of(name: str, opset: int) -> dict[str, np.float32]:
    model = PATTERNS[name].build(opset)
    return measured_scales(model, feeds(model), find_needed_tensors(model))


def quantized(name: str, opset: int, placement: Placement, float_type: FloatType) -> onnx.ModelProto:
    spec = QuantizeSpec(placement=placement, float_type=float_type)
    return quantize_model(PATTERNS[name].build(opset), scales_of(name, opset), spec).model


@pytest.fixture(scope="module")
def builder() -> Any:
    """One TensorRT builder for all parsing."""
    return trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))


@pytest.mark.parametrize(("name", "opset"), ENDS)
def test_tensorrt_parses_every_pattern(builder: Any, name: str, opset: int) -> None:
    for placement, float_type in MIXES:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
        is_parsed = parser.parse(model_to_bytes(quantized(name, opset, placement, float_type)))
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        assert (is_parsed, errors) == (True, []), f"{placement} {float_type}"


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("name", BUILT)
def test_tensorrt_builds_what_is_fused(tmp_path: Path, name: str, float_type: FloatType) -> None:
    model = quantized(name, 17, "fused", float_type)
    path = tmp_path / "model.onnx"
    path.write_bytes(model_to_bytes(model))
    sizes = {tensor: value.shape for tensor, value in feeds(model).items()}
    shapes = {tensor: ShapeProfile(min=shape, opt=shape, max=shape) for tensor, shape in sizes.items()}
    request = BuildRequest(path, tmp_path / "plan", shapes=shapes, compute_capability=("8.6",), optimization_level=0)
    assert get_backend("tensorrt-rtx").build(request, lambda _: None).metadata["plan_bytes"] > 0
