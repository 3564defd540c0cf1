"""A second batch far beyond the first one's range: TensorRT doubles it up to a thousandfold, and further on sets it anew.

Caches of TensorRT 10.6 of a net that multiplies its input by numbers down to 1e-30 and takes it to powers up to 20.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.observers.onnxruntime import ObserverSpec
from app.quant.histogram import add_tensorrt_batch, empty_tensorrt
from app.quant.native_cache import scales_from_native_cache
from app.quant.table import scales_from_table, table_from_observation
from tests.observers.observing import observe

ORACLE = Path(__file__).parents[1] / "oracle"
FACTORS = (1e-3, 3e-4, 1.5e-4, 9e-5, 5e-5, 2e-5, 1.1e-5, 9e-6, 5e-6, 3e-6, 1.1e-6, 9e-7, 3e-7, 1e-7, 1e-9, 1e-12, 1e-20, 1e-30)
POWERS = (2, 4, 6, 7, 8, 9, 10, 12, 14, 16, 20)


def save_net(path: Path) -> list[str]:
    """Write the net, and return the names of its tensors."""
    operands = [("Mul", f"first{place}", factor) for place, factor in enumerate(FACTORS)]
    operands += [("Pow", f"pow{power}", power) for power in POWERS]
    nodes = [helper.make_node(op, ["input", f"{output}_operand"], [output]) for op, output, _ in operands]
    values = [numpy_helper.from_array(np.array(value, np.float32), f"{output}_operand") for _, output, value in operands]
    names = [output for _, output, _ in operands]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 24, 24])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 24, 24]) for name in names]
    graph = helper.make_graph(nodes, "growing", [given], outputs, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return ["input", *names]


def batches() -> list[np.ndarray]:
    """Return a batch of 0..1, and two of up to 3, with the largest value in the first of these."""
    random = np.random.default_rng(3)
    one = random.uniform(0.01, 1, (8, 3, 24, 24))
    one[0, 0, 0, 0] = 1
    two = np.minimum(np.abs(random.normal(0, 0.8, (16, 3, 24, 24))), 3)
    two[0, 0, 0, 0] = 3
    whole = np.concatenate([one, two]).astype(np.float32)
    return [whole[start : start + 8] for start in range(0, 24, 8)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("method", "cache"), [("entropy", "entropy2"), ("minmax", "minmax")])
def test_ranges_are_tensorrts(tmp_path: Path, method: str, cache: str, threads: int) -> None:
    tensors = save_net(tmp_path / "m.onnx")
    observation = observe(tmp_path / "m.onnx", tensors, batches(), ObserverSpec("tensorrt", threads), lambda _: None)
    ours = scales_from_table(table_from_observation(observation, method))
    assert ours.keys() == set(tensors)
    theirs, _ = scales_from_native_cache((ORACLE / f"growing-ranges-{cache}.cache").read_bytes(), ours)
    for tensor, scale in ours.items():
        assert scale == pytest.approx(theirs[tensor], rel=2e-6), tensor


@pytest.mark.parametrize("growth", [2.0**10, 2.0**11 * 1.5, 1e9])
def test_no_value_is_lost(growth: float) -> None:
    first, second = np.linspace(0.1, 1, 1000, dtype=np.float32), np.linspace(0, growth, 500, dtype=np.float32)
    histogram = add_tensorrt_batch(add_tensorrt_batch(empty_tensorrt(), first), second)
    assert histogram.count == histogram.counts.sum() == 1500
    assert histogram.maximum == np.float32(growth)
    is_anew = growth > 2.0**11
    assert histogram.width * 2048 == (np.float32(growth) if is_anew else 2.0**10)
    assert (histogram.counts[0] >= 1000) == is_anew
