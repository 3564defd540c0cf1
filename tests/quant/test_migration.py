"""What a Q/DQ model keeps of an implicit calibration is told tensor by tensor."""

import pytest

from app.quant.float16_names import restore_names
from app.quant.graph import find_activations, find_needed_tensors
from app.quant.migration import Cache, report_migration
from app.quant.placement import PLACEMENTS
from app.quant.qdq import quantize_model
from app.spec import QuantizeSpec
from tests.quant.nets import NETS, images, measured_scales


@pytest.mark.parametrize("name", NETS)
def test_every_scale_of_the_cache_is_kept_or_lost_with_a_reason(name: str) -> None:
    model = NETS[name]()
    amax = {n: 127 * float(s) for n, s in measured_scales(model, images(model), find_activations(model)).items()}
    quantized = quantize_model(model, {n: a / 127 for n, a in amax.items()}, QuantizeSpec())
    report = report_migration(quantized.model, Cache(amax, {}))
    tensors = report["tensors"]
    assert tensors["cache"] == len(amax)
    assert tensors["gained"] == []
    assert len(tensors["lost"]) + tensors["pairs"] == tensors["cache"]
    assert all(row["reason"] for row in tensors["lost"])
    assert report["layers"]["int8"] == len(quantized.report["quantized"])
    assert all("_int8" in row["weight"] for row in report["weights"])
    assert len({row["node"] for row in report["weights"]}) == len(report["weights"])


def test_shared_and_filled_scales_are_told() -> None:
    model = NETS["concat"]()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    quantized = quantize_model(model, scales, QuantizeSpec(placement="fused"))
    amax = {n: 127 * float(s) for n, s in scales.items() if n != "trunk"}
    tensors = report_migration(quantized.model, Cache(amax, {}))["tensors"]
    assert tensors["gained"] == ["trunk"]
    # Concat's inputs and output have one scale, the largest of theirs
    assert {row["tensor"] for row in tensors["changed"]} <= {"max", "mean", "joined", "deep", "up"}
    assert all(row["now"] > row["cache"] for row in tensors["changed"])
    assert tensors["changed"]
    assert {row["zero_point"] for row in tensors["changed"]} == {0}


def test_zero_points_are_told() -> None:
    model = NETS["resnet"]()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    quantized = quantize_model(model, scales, QuantizeSpec(asymmetric=True))
    tensors = report_migration(quantized.model, Cache({n: 127 * float(s) for n, s in scales.items()}, {}))["tensors"]
    relus = {node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    points = {row["tensor"]: row["zero_point"] for row in tensors["changed"]}
    assert {points[name] for name in relus & points.keys()} == {-128}
    assert tensors["zero_points"] == len(points) < tensors["pairs"]


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_in_fp16_the_same_tensors_have_pairs(name: str, placement: str) -> None:
    model = NETS[name]()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    cache = Cache({tensor: 127 * float(scale) for tensor, scale in scales.items()}, {})
    told = []
    for float_type in ("fp32", "fp16"):
        quantized = quantize_model(
            model, scales, QuantizeSpec.model_validate({"placement": placement, "float_type": float_type})
        )
        restore_names(quantized.model.graph, scales)
        report = report_migration(quantized.model, cache)
        changed = report["tensors"].pop("changed")
        told.append((report, {row["tensor"]: pytest.approx(row["now"], rel=2e-3) for row in changed}))
    assert told[0] == told[1]
