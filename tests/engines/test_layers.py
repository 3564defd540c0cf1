"""Layers of a TensorRT engine by precision, as its inspector tells them (lines of TensorRT 10.6)."""

from typing import Any

from app.engines.layers import count_layers, layer_from_json


def told(name: str, kind: str, reads: str, writes: str) -> dict[str, Any]:
    sides = {"Inputs": reads, "Outputs": writes}
    tensors = {side: [{"Name": "x", "Dimensions": [8, 32, 7, 7], "Format/Datatype": words}] for side, words in sides.items()}
    return {"Name": name, "LayerType": kind, "TacticName": "sm80_xmma"} | tensors


INT8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF = "Channel major FP16 format where channel % 8 == 0"
FLOAT = "Row major linear FP32"


def test_a_layer_s_precision_is_that_of_what_it_reads() -> None:
    layers = [
        layer_from_json(told("conv", "CaskConvolution", INT8, INT8)),
        layer_from_json(told("last conv", "CaskConvolution", INT8, FLOAT)),
        layer_from_json(told("pool", "CaskPooling", HALF, HALF)),
        layer_from_json(told("to int8", "Reformat", FLOAT, INT8)),
    ]
    assert [layer.precision for layer in layers] == ["int8", "int8", "fp16", "fp32"]
    counts = count_layers(layers)
    assert {name: counts[name] for name in ("int8", "fp16", "fp32", "reformat")} == {
        "int8": 2, "fp16": 1, "fp32": 0, "reformat": 1,
    }  # fmt: skip
    assert counts["kinds"] == {"CaskConvolution": 2, "CaskPooling": 1, "Reformat": 1}


def test_a_plan_without_details_gives_names_alone() -> None:
    assert count_layers([layer_from_json("conv1 + relu")])["other"] == 1
