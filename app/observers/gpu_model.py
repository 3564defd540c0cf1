"""The model as the GPU observer runs it: the tensors that are counted are its outputs, as float32, at one batch size."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from app.cuda.build import BuildOptions, build_plan
from app.cuda.network import Network, parse_network
from app.cuda.runtime import TensorRt
from app.errors import CalibrationProblem, EngineProblem
from app.observers.gpu_forward import Compiled, GpuForward
from app.observers.optimize import save_model
from app.quant.simplify import remove_unused
from app.quant.tensor_types import infer_types

_ADVICE = "set calibration.observer to onnxruntime"
#: What is fetched as another type is cast behind the model; the cast is exact.
_CAST = "enginesmith_float32:"


def make_fetching_model(model: onnx.ModelProto, fetched: Sequence[str]) -> onnx.ModelProto:
    """Change model so that its outputs are the fetched tensors in their order, float32 each; return it.

    Raises CalibrationProblem for a model whose input is not float32.
    """
    types = infer_types(model)
    fixed = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in fixed and value.type.tensor_type.elem_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            raise CalibrationProblem(reason=f"input {value.name} is {kind}; on a GPU it is float32. Else {_ADVICE}")
    del model.graph.output[:]
    for name in fetched:
        output = name
        if name in types and types[name].element != TensorProto.FLOAT:
            output = _CAST + name
            model.graph.node.append(helper.make_node("Cast", [name], [output], to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    remove_unused(model.graph)
    return model


class PassModel:
    """A model whose outputs are the fetched tensors, parsed once and built for passes of any size."""

    def __init__(self, tensorrt: TensorRt, model: onnx.ModelProto, fetched: Sequence[str]) -> None:
        """Parse model, which is changed on the way; raises CalibrationProblem where it cannot be run here."""
        self._tensorrt = tensorrt
        fetching = make_fetching_model(model, fetched)
        self._outputs = [output.name for output in fetching.graph.output]
        self._network = _parse(tensorrt, fetching)
        self._declared = tuple(self._network.inputs[0].shape)
        #: Images of every pass, where the model says so.
        self.fixed_images = self._declared[0] if self._declared[0] > 0 else None

    def find_images(self, image_shape: tuple[int, ...], most: int, limit_bytes: int) -> int:
        """Return how many images of that shape a pass takes: at most so many, whose tensors fit the limit."""
        if self.fixed_images:
            return self.fixed_images
        values = sum(math.prod(shape) for shape in self._fix_shapes((1, *image_shape)).values())
        return max(1, min(most, limit_bytes // (4 * max(1, values))))

    def open(self, shape: tuple[int, ...]) -> GpuForward:
        """Build for passes of that shape. Raises CalibrationProblem, EngineProblem, GpuOom."""
        shapes = self._fix_shapes(shape)
        # Level 0 takes the first tactic that works and measures none, so that two builds on like GPUs compute the same bits.
        plan = build_plan(self._network, BuildOptions(optimization_level=0)).plan
        return GpuForward(self._tensorrt, shape, Compiled(plan, {name: shapes[name] for name in self._outputs}))

    def _fix_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        fits = len(shape) == len(self._declared) and all(
            size in (-1, made) for size, made in zip(self._declared, shape, strict=True)
        )
        if not fits:
            reason = f"the model does not run on a batch of shape {shape}: its input is {self._declared}"
            raise CalibrationProblem(reason=reason)
        self._network.inputs[0].shape = shape
        try:
            shapes = {output.name: tuple(output.shape) for output in self._network.outputs}
        except (RuntimeError, ValueError):  # its layers contradict one another: a batch that is fixed somewhere inside
            reason = f"the model does not run on a batch of shape {shape}: {self._tensorrt.failure().detail}"
            raise CalibrationProblem(reason=reason) from None
        if unknown := [name for name, made in shapes.items() if any(size < 0 for size in made)]:
            reason = f"the shape of tensor {unknown[0]} depends on the values, which a GPU pass does not take; {_ADVICE}"
            raise CalibrationProblem(reason=reason)
        return shapes


def _parse(tensorrt: TensorRt, model: onnx.ModelProto) -> Network:
    with tempfile.TemporaryDirectory(prefix="enginesmith-observe-") as folder:
        path = Path(folder, "model.onnx")
        save_model(model, path)
        try:
            return parse_network(tensorrt, path, is_typed=True)
        except EngineProblem as problem:
            raise CalibrationProblem(reason=f"{problem.detail} Or {_ADVICE}") from problem
