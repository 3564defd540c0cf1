"""The proof: TensorRT's own caches of the digits CNN, from activations computed here."""

import struct
from pathlib import Path

import numpy as np
import pytest

from app.observers.onnxruntime import ObserverSpec
from app.quant.table import scales_from_table, table_from_observation
from app.quant.thresholds import compute_amax
from app.quant.trt_cache import parse_trt_cache
from tests.observers.nets import DIGITS_MODEL, read_digits
from tests.observers.observing import observe

ORACLE = Path(__file__).parents[1] / "oracle"
#: What TensorRT's builder adds; the model has no such tensors.
INTERNAL = {"10.weight_output", "10.bias_output", "ONNXTRT_Broadcast_output"}


def read_oracle(name):
    scales = parse_trt_cache((ORACLE / name).read_bytes()).scales
    return {tensor: scale for tensor, scale in scales.items() if tensor not in INTERNAL}


@pytest.fixture(scope="module")
def observation():
    images = read_digits()
    batches = (images[start : start + 50] for start in range(0, 500, 50))
    return observe(DIGITS_MODEL, list(read_oracle("mnist-entropy2.cache")), batches, ObserverSpec("tensorrt"), print)


def test_entropy_chooses_tensorrts_bin_for_every_activation(observation):
    expected = read_oracle("mnist-entropy2.cache")
    assert len(expected) == 17  # the model's 16 activations, and the product inside its Gemm
    scales = scales_from_table(table_from_observation(observation, "entropy"))
    for tensor, scale in expected.items():
        assert scales[tensor] == pytest.approx(scale, rel=2e-6), tensor
        # One bin more or less is far more than the rounding of two forward passes.
        width = observation.histograms[tensor].width
        ours = compute_amax(observation.histograms[tensor], "entropy") / width - 0.5
        assert round(float(scale) * 127 / width - 0.5) == round(ours), tensor


def test_scales_are_identical_in_hex_where_the_first_absmax_is_exact(observation):
    expected = read_oracle("mnist-entropy2.cache")
    scales = scales_from_table(table_from_observation(observation, "entropy"))
    identical = {tensor for tensor in expected if struct.pack(">f", scales[tensor]) == struct.pack(">f", expected[tensor])}
    # The pixels and the clipped tensors do not depend on how a convolution rounds.
    clipped = {tensor for tensor in expected if "Clip" in tensor}
    assert len(clipped) == 4
    assert identical >= clipped | {"input"}


def test_minmax_equals_tensorrts(observation):
    scales = scales_from_table(table_from_observation(observation, "minmax"))
    for tensor, scale in read_oracle("mnist-minmax.cache").items():
        assert scales[tensor] == pytest.approx(scale, rel=2e-6), tensor


def test_the_legacy_calibrator_chose_the_same_bins(observation):
    scales = scales_from_table(table_from_observation(observation, "entropy"))
    for tensor, scale in read_oracle("mnist-entropy.cache").items():
        assert scales[tensor] == pytest.approx(scale, rel=2e-6), tensor


def test_the_mergeable_grid_is_close_on_absmax():
    images = read_digits(100)
    tensors = list(read_oracle("mnist-minmax.cache"))
    observation = observe(DIGITS_MODEL, tensors, [images], ObserverSpec("mergeable"), print)
    table = table_from_observation(observation, "minmax")
    assert np.isclose(table.amax["input"], 1.0)
    assert table.amax["/6/d/d.2/Clip_output_0"] == 6.0
