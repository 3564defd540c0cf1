"""How many bytes a model's constants take, by element type."""

from collections import Counter

import numpy as np
import onnx


def count_weight_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Return {"int8": bytes, "float32": bytes, ...} of all initializers; their values need not be loaded."""
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        sizes[dtype.name] += int(np.prod(tensor.dims, dtype=np.int64)) * dtype.itemsize
    return dict(sorted(sizes.items()))
