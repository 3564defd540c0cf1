"""TensorRT's own caches, with lines that an imported cache may not have (a thin ResNet-50's, written by TensorRT 10.6)."""

import numpy as np

from app.quant.native_cache import algorithm_from_native_cache, scales_from_native_cache
from tests.gpu.digits import ORACLE
from tests.quant.samples import parse_oracle

CACHE = b"""TRT-100600-EntropyCalibration2
images: 3c010204
bias_107_output: 0
relu: 3d4ef0a7
dead: 0
ONNXTRT_Broadcast_output: 3f800000
"""


def test_constants_are_not_looked_at_and_zero_is_dead() -> None:
    scales, dead = scales_from_native_cache(CACHE, ["images", "relu", "dead", "not there"])
    assert list(scales) == ["images", "relu"]
    assert dead == ["dead"]
    assert scales["images"] == np.float32(np.frombuffer(bytes.fromhex("0402013c"), "<f4")[0])


def test_a_cache_of_the_real_thing_is_read_whole() -> None:
    content = (ORACLE / "mnist-entropy2.cache").read_bytes()
    known = parse_oracle("entropy2")
    assert scales_from_native_cache(content, known) == (known, [])
    assert algorithm_from_native_cache(content) == "EntropyCalibration2"
