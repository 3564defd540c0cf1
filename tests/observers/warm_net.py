"""The tiny net of app/observers/warm.onnx: `python -m tests.observers.warm_net` writes it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.observers.warm import MODEL

_WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 1, 3, 3), "w3": (16, 16, 1, 1), "w4": (16, 10), "b4": (10,)}


def make_warm_net() -> onnx.ModelProto:
    """Return it: a convolution, a depthwise and a 1x1 one, Relu, Clip, Add, both kinds of pooling, and a product."""
    generator, node = np.random.default_rng(0), helper.make_node
    arrays = {name: generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1) for name, shape in _WEIGHTS.items()} | {
        "lo": np.array(0),
        "hi": np.array(6),
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], kernel_shape=[3, 3], pads=[1] * 4, group=16),
        node("Clip", ["c2", "lo", "hi"], ["r2"]),
        node("Conv", ["r2", "w3"], ["c3"], kernel_shape=[1, 1]),
        node("Add", ["c3", "r1"], ["a"]),
        node("MaxPool", ["a"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["m"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "warm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    onnx.save(make_warm_net(), MODEL)
