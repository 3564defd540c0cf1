"""Engines of ONNX Runtime: a Q/DQ ONNX file that its CPU provider runs in INT8, and any other runtime reads."""

import platform
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from app.engines.backend import BackendInfo, BuildRequest, BuildResult, Report
from app.engines.cpu_int8 import fuse_for_cpu
from app.engines.portions import run_in_portions
from app.engines.refused import FLOAT_OPS, find_refused
from app.engines.rules import ONNXRUNTIME_PRECISIONS
from app.errors import EngineProblem, UnsupportedOption
from app.errors.problem import words_of
from app.quant.qdq import model_to_bytes
from app.spec import ShapeProfile

#: With these an engine is judged and must be run. x64quantprecision: without VNNI the default INT8 kernels saturate in
#: 16 bits (kOrtSessionOptionsAvx2PrecisionMode); it has no effect on other CPUs.
SESSION_OPTIONS = {"session.x64quantprecision": "1"}

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_ERRORS_ONLY = 3
_INT8_OPS = frozenset(["QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"])
_STATE = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
#: What ONNX Runtime raises; its classes share no base but Exception.
RUNTIME_ERRORS = (
    _STATE.Fail,
    _STATE.InvalidArgument,
    _STATE.InvalidGraph,
    _STATE.InvalidProtobuf,
    _STATE.NoSuchFile,
    _STATE.NotImplemented,
    _STATE.RuntimeException,
    RuntimeError,
    ValueError,
)


class OnnxRuntimeRunner:
    """A model in an ONNX Runtime CPU session."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        first = session.get_inputs()[0]
        self._input, self._type = first.name, _NUMPY_TYPES.get(first.type, np.float32)
        self._outputs = [output.name for output in session.get_outputs()]
        batch = first.shape[0] if first.shape else None
        self._fixed_batch = batch if isinstance(batch, int) else None

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output by name for a batch fed to the model's first input.

        A model with a fixed batch gets the images in portions of it, the last one filled up with its last image.
        """
        size = self._fixed_batch
        return self._run(batch) if size is None else run_in_portions(self._run, batch, size, size)

    def _run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        values = self._session.run(self._outputs, {self._input: batch.astype(self._type, copy=False)})
        return {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}


class OnnxRuntimeBackend:
    """See `app.engines.backend.Backend`."""

    name = "onnxruntime"

    def probe(self) -> BackendInfo | None:
        return BackendInfo(self.name, onnxruntime.__version__, ONNXRUNTIME_PRECISIONS)

    def build(self, request: BuildRequest, report: Report) -> BuildResult:
        """Write the model as plan after it has loaded and run one batch. Raises UnsupportedOption, EngineProblem."""
        if request.precision not in ONNXRUNTIME_PRECISIONS:
            reason = f"onnxruntime engines are {' or '.join(ONNXRUNTIME_PRECISIONS)}"
            raise UnsupportedOption(option=f"engine.precision {request.precision}", reason=reason)
        model = onnx.load(request.model)
        fused = fuse_for_cpu(model) if request.precision == "int8" else 0
        report({"log": f"{fused} convolutions write INT8 directly"})
        request.plan.write_bytes(model_to_bytes(model))
        layers = _try(request.plan, request, model)
        report({"log": f"loaded and ran one batch: {layers['int8']} INT8 and {layers['float']} float nodes with weights"})
        return BuildResult(
            {
                "backend": self.name,
                "version": onnxruntime.__version__,
                "precision": request.precision,
                "plan_bytes": request.plan.stat().st_size,
                "compute_capability": None,
                "platform": platform.machine(),
                "session_options": SESSION_OPTIONS,
                "layers": layers,
                "kept_fp32": [],
                "driver_floor": None,
            }
        )

    def open(self, plan: Path, threads: int) -> OnnxRuntimeRunner:
        """Return a runner of an ONNX file. Raises EngineProblem where ONNX Runtime refuses it."""
        return OnnxRuntimeRunner(open_session(plan, session_options(threads)))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return the options for correct INT8 arithmetic on every CPU, with this many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    for key, value in SESSION_OPTIONS.items():
        options.add_session_config_entry(key, value)
    return options


#: They take whatever a QuantizeLinear gives for an integer.
_WRONG_WITH_FP8 = ["WeightBiasQuantization", "ClipQuantRewrite", "ReluQuantRewrite"]


#: They turn operators between Q/DQ pairs into INT8 ones, and move pairs over what only moves values.
_OF_PAIRS = ["QDQSelectorActionTransformer", "QDQPropagationTransformer"]


def find_wrong_optimizers(model: onnx.ModelProto) -> list[str]:
    """Return the optimizers of ONNX Runtime that compute this model wrongly."""
    # Measured with ONNX Runtime 1.32: in fp16 Q/DQ models it rounds activation scale * weight scale to fp16, where it
    # underflows, and writes the bias in these steps (digits with TensorRT's entropy table: accuracy 0.62 becomes 0.17).
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    is_half = any(t.data_type == onnx.TensorProto.FLOAT16 and t.name in scales for t in model.graph.initializer)
    if any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in model.graph.initializer):
        return _WRONG_WITH_FP8
    return ["WeightBiasQuantization"] if is_half else []


def open_session(
    path: Path, options: onnxruntime.SessionOptions, disabled_optimizers: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    """Return a CPU session of an ONNX file. Raises EngineProblem with ONNX Runtime's words."""
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled_optimizers)
        )
    except RUNTIME_ERRORS as error:
        raise EngineProblem(backend="onnxruntime", reason=words_of(error, path)) from error


def open_tested(
    path: Path, model: onnx.ModelProto, options: onnxruntime.SessionOptions
) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Return a session of a Q/DQ model, and the optimizers that it was opened without. Raises EngineProblem.

    They change no more than last bits, but those of `find_wrong_optimizers`. Of some models ONNX Runtime 1.32 makes a graph
    that it then refuses: of a Concat between fp16 pairs, and, from opset 21 on with x64quantprecision, of what moves values
    between a DequantizeLinear and a float node. These are opened without what looks at pairs.
    """
    disabled = find_wrong_optimizers(model)
    try:
        return open_session(path, options, disabled), disabled
    except EngineProblem:
        disabled = [*disabled, *_OF_PAIRS]
        return open_session(path, options, disabled), disabled


def _try(plan: Path, request: BuildRequest, model: onnx.ModelProto) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=plan.parent) as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = session_options(request.threads)
        options.optimized_model_filepath = str(optimized)
        session = open_session(plan, options)
        layers = _count_layers(onnx.load(optimized, load_external_data=False), model)
    try:
        session.run(None, {value.name: _sample(value, request.shapes) for value in model.graph.input})
    except RUNTIME_ERRORS as error:
        raise EngineProblem(backend="onnxruntime", reason=f"a batch of zeros fails: {words_of(error, plan)}") from error
    return layers


def _sample(value: onnx.ValueInfoProto, shapes: Any) -> np.ndarray:
    tensor = value.type.tensor_type
    profile: ShapeProfile | None = shapes.get(value.name)
    sizes = profile.min if profile else [d.dim_value if d.dim_value > 0 else 1 for d in tensor.shape.dim]
    return np.zeros(sizes, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _count_layers(optimized: onnx.ModelProto, model: onnx.ModelProto) -> dict[str, Any]:
    counts = Counter(node.op_type for node in optimized.graph.node)
    return {
        "int8": sum(count for op, count in counts.items() if op in _INT8_OPS),
        "float": sum(count for op, count in counts.items() if op in FLOAT_OPS),
        "refused": find_refused(optimized, model),
        "ops": dict(sorted(counts.items())),
    }


BACKEND = OnnxRuntimeBackend()
