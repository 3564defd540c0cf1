"""The names that tensors had before a model was converted to fp16."""

from collections.abc import Container

import onnx

_SUFFIX = "_fp16"


def restore_names(graph: onnx.GraphProto, known: Container[str]) -> None:
    """Give fp16 tensors the names of the float ones that they stand for, and take out the Casts between the two; in place.

    `known`: names that tensors had before, which stay. The graph is good to look at, and no longer to run.
    """
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer):
        return
    for tensor in graph.initializer:
        tensor.name = _restored(tensor.name, known)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_restored(name, known) for name in names]
    kept = [node for node in graph.node if node.op_type != "Cast" or node.input[0] != node.output[0]]
    del graph.node[:]
    graph.node.extend(kept)


def _restored(name: str, known: Container[str]) -> str:
    return name if name in known else name.removesuffix(_SUFFIX)
