"""What asked for INT8 and is float in ONNX Runtime's own optimized graph, with the reason."""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from app.engines.onnxruntime import session_options
from app.engines.refused import find_refused
from app.quant.graph import find_needed_tensors
from app.quant.qdq import model_to_bytes, quantize_model
from app.quant.weight_sizes import count_weight_bytes
from app.spec import QuantizeSpec
from tests.quant.nets import Net, images, measured_scales


def refused(model: onnx.ModelProto, folder: Path) -> list[dict[str, Any]]:
    """Return what ONNX Runtime's own graph of the Q/DQ model of a net refuses."""
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    options = session_options(1)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    quantized = quantize_model(model, scales, QuantizeSpec()).model
    onnxruntime.InferenceSession(model_to_bytes(quantized), options, providers=["CPUExecutionProvider"])
    return find_refused(onnx.load(folder / "optimized.onnx"), quantized)


def test_a_convolution_before_a_float_node_stays_float(tmp_path: Path) -> None:
    net = Net(["N", 16, 8, 8])
    net.node("GlobalAveragePool", [net.conv(net.conv("input", "first", 16, 16), "second", 16, 16)], "pool")
    (row,) = refused(net.model({"pool": ["N", 16, 1, 1]}), tmp_path)
    assert row["node"] == "second_node"
    assert "GlobalAveragePool in float" in row["reason"]


def test_the_last_convolution_writes_float(tmp_path: Path) -> None:
    net = Net(["N", 16, 8, 8])
    net.conv(net.conv("input", "first", 16, 16), "output", 16, 16)
    (row,) = refused(net.model({"output": ["N", 16, 8, 8]}), tmp_path)
    assert row["node"] == "output_node"
    assert "float output of the model" in row["reason"]


def test_a_transposed_convolution_has_no_kernel(tmp_path: Path) -> None:
    net = Net(["N", 16, 8, 8])
    net.node("ConvTranspose", ["input", net.weight("up", 16, 16, 2, 2)], "output", strides=[2, 2])
    (row,) = refused(net.model({"output": ["N", 16, 16, 16]}), tmp_path)
    assert row["op"] == "ConvTranspose"
    assert "no INT8 kernel" in row["reason"]


def test_nodes_that_are_fused_with_others_keep_their_names(tmp_path: Path) -> None:
    net = Net(["N", 32])
    net.node("Relu", [net.node("Gemm", ["input", net.weight("w1", 32, 32), net.weight("b1", 32)], "g1")], "r1")
    net.node("Add", [net.node("MatMul", ["r1", net.weight("w2", 32, 32)], "m2"), net.weight("b2", 32)], "a2")
    net.node("Sigmoid", ["a2"], "output")
    rows = refused(net.model({"output": ["N", 32]}), tmp_path)
    assert [(row["node"], row["op"]) for row in rows] == [("g1_node", "FusedGemm"), ("m2_node", "FusedGemm")]


def test_bytes_of_weights_are_counted_by_type() -> None:
    net = Net(["N", 16, 8, 8])
    net.conv("input", "output", 16, 16, 1)
    model = net.model({"output": ["N", 16, 8, 8]})
    assert count_weight_bytes(model)["float32"] >= 16 * 16 * 4
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    sizes = count_weight_bytes(quantize_model(model, scales, QuantizeSpec()).model)
    assert sizes["int8"] >= 16 * 16
    assert sum(sizes.values()) <= len(model_to_bytes(model))
