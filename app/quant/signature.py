"""What a model declares about its inputs and outputs, corrected where it is known to be wrong."""

from collections.abc import Sequence

import onnx

from app.quant.tensor_types import Shape, infer_types

Dimension = onnx.TensorShapeProto.Dimension


def forget_unknown_sizes(graph: onnx.GraphProto) -> None:
    """Leave sizes of inputs and outputs open where exporters write -1, 0 or a name without a letter, in place.

    Paddle's exporter calls every unknown size `?`; taken for a name it would say that height and width are equal, and
    TensorRT holds an optimization profile to that.
    """
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            is_named = any(letter.isalnum() for letter in dimension.dim_param)
            if not is_named and dimension.dim_value <= 0:
                dimension.Clear()


def correct_output_shapes(model: onnx.ModelProto) -> None:
    """Replace the shapes of outputs that shape inference contradicts or nobody declared, in place.

    Runtimes only warn of the former and take the latter; ONNX's checker refuses both.
    """
    declared = {value.name: value.type.tensor_type for value in model.graph.output}
    types = infer_types(model, with_declared_outputs=False)
    for name, tensor in declared.items():
        inferred = types[name].shape if name in types else None
        if inferred is not None and not (tensor.HasField("shape") and _agree(tensor.shape.dim, inferred)):
            tensor.shape.Clear()
            tensor.shape.SetInParent()  # of a scalar, too
            for size in inferred:
                tensor.shape.dim.add().CopyFrom(Dimension() if size is None else Dimension(dim_value=size))


def _agree(declared: Sequence[onnx.TensorShapeProto.Dimension], inferred: Shape) -> bool:
    sizes = [dimension.dim_value if dimension.HasField("dim_value") else None for dimension in declared]
    return len(sizes) == len(inferred) and all(
        size is None or known is None or size == known for size, known in zip(sizes, inferred, strict=True)
    )
