"""Tuning on real digits: what is learned on some helps on others, is the same every time, and of each node alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from app.engines.tune import Known, Learned, Tuner, TuneSpec
from app.quant.graph import find_needed_tensors
from app.quant.judge import Comparison
from app.quant.qdq import QuantizedModel, model_to_bytes, quantize_model
from app.spec import QuantizeSpec
from tests.observers.nets import read_digits
from tests.quant.nets import NETS, images, measured_scales, run
from tests.quant.samples import digits_images, digits_model, parse_oracle
from tests.quant.test_center import pointwise_net

BOTH = QuantizeSpec(bias_correction=True, weight_rounding="gptq")


def tuned(model: onnx.ModelProto, scales: dict[str, np.float32], spec: QuantizeSpec, batch: np.ndarray) -> QuantizedModel:
    wanted = TuneSpec(spec.bias_correction, spec.weight_rounding == "gptq", len(batch))

    def tune(float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, object]:
        tuner = Tuner(float_model, quantized, wanted)
        return tuner.learn(lambda: iter(np.array_split(batch, 4)), lambda _: None).apply(float_model, quantized)

    return quantize_model(model, scales, spec, tune=tune if spec.is_tuned else None)


def sqnr_db(quantized: onnx.ModelProto) -> float:
    digits, _ = digits_images()
    comparison = Comparison()
    comparison.add(run(digits_model(), digits), run(quantized, digits), [None] * len(digits))
    return comparison.to_json()["outputs"]["output"]["sqnr_db"]


def test_what_calibration_digits_say_helps_on_test_digits() -> None:
    model, scales, batch = digits_model(), parse_oracle("minmax"), read_digits()[:64]
    plain = sqnr_db(tuned(model, scales, QuantizeSpec(), batch).model)
    corrected = tuned(model, scales, QuantizeSpec(bias_correction=True), batch)
    both = tuned(model, scales, BOTH, batch)
    assert sqnr_db(corrected.model) > plain + 0.5
    assert sqnr_db(both.model) > plain + 0.5
    assert corrected.report["tuned"] == {"images": 64, "rounded": 0, "corrected": 7, "left": []}
    assert both.report["tuned"] == {"images": 64, "rounded": 7, "corrected": 7, "left": []}
    assert model_to_bytes(both.model) == model_to_bytes(tuned(model, scales, BOTH, batch).model)


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_centred_activations_come_nearer(activation: str) -> None:
    model = pointwise_net(activation)
    batch = images(model, 64)
    scales = measured_scales(model, batch, find_needed_tensors(model))
    specs = (BOTH, BOTH.model_copy(update={"center": True}))
    errors = [mean_square_error(model, tuned(model, scales, spec, batch).model, batch) for spec in specs]
    assert errors[1] < 0.9 * errors[0]


def test_a_node_does_not_depend_on_which_others_are_float() -> None:
    model, scales, batch = digits_model(), parse_oracle("minmax"), read_digits()[:16]
    spec = BOTH.model_copy(update={"exclude": ("/3/Conv",)})
    every, some = (constants(tuned(model, scales, each, batch).model) for each in (BOTH, spec))
    shared = {name for name in some if name.endswith(("_int8", "_bias_corrected"))}
    assert len(shared) == 12
    for name in shared:
        assert np.array_equal(some[name], every[name]), name


def test_nodes_that_are_known_are_not_looked_at_again() -> None:
    """Two readers of a centred Relu: with one of them in float it is centred no more, and the other one is another node."""
    model = pointwise_net()
    batch = images(model, 16)
    scales = measured_scales(model, batch, find_needed_tensors(model))
    spec = BOTH.model_copy(update={"center": True})
    learned: list[Learned] = []

    def learn(known: Known) -> Callable[[onnx.ModelProto, onnx.ModelProto], dict[str, Any]]:
        def tune(float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, Any]:
            tuner = Tuner(float_model, quantized, TuneSpec(True, True, len(batch)))
            learned.append(tuner.learn(lambda: looked.append(1) or iter([batch]), lambda _: None, known))
            return learned[-1].apply(float_model, quantized)

        return tune

    looked: list[int] = []
    whole = quantize_model(model, scales, spec, tune=learn({}))
    assert len(looked) == 2  # once for the weights, once for the biases
    again = quantize_model(model, scales, spec, tune=learn(learned[0].known))
    assert (len(looked), model_to_bytes(again.model)) == (2, model_to_bytes(whole.model))
    without = spec.model_copy(update={"exclude": ("second",)})
    taken = quantize_model(model, scales, without, tune=learn(learned[0].known))
    fresh = quantize_model(model, scales, without, tune=learn({}))
    changed = {name for name, digest in learned[-1].digests.items() if learned[0].digests[name] != digest}
    assert changed == {"first"}  # whose Relu is not centred any more
    for name, value in constants(fresh.model).items():
        np.testing.assert_allclose(constants(taken.model)[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet", "mobile", "decoder", "attention", "nhwc", "silu", "hidden-weights"])
def test_every_kind_of_node_comes_nearer_to_float(name: str) -> None:
    model = NETS[name]()
    batch = images(model, 16)
    scales = measured_scales(model, batch, find_needed_tensors(model))
    errors = [mean_square_error(model, tuned(model, scales, spec, batch).model, batch) for spec in (QuantizeSpec(), BOTH)]
    assert errors[1] < errors[0]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def mean_square_error(model: onnx.ModelProto, quantized: onnx.ModelProto, batch: np.ndarray) -> float:
    wanted, found = run(model, batch), run(quantized, batch)
    return float(np.mean([np.square(wanted[name] - found[name]).mean() / np.square(wanted[name]).mean() for name in wanted]))
