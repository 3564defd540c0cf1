"""Sessions that run the FP32 graph: one thread, the wanted tensors as outputs, left in the layout of the kernels."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import (
    onnxruntime_pybind11_state as states,  # pyright: ignore[reportAttributeAccessIssue] - a C module without stubs
)

from app.errors import CalibrationProblem
from app.errors.problem import words_of

#: onnxruntime has no common base class of its errors.
RUNTIME_ERRORS = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoSuchFile,
    states.NotImplemented,
    states.RuntimeException,
    RuntimeError,  # what run_with_iobinding raises
)


#: The runtime names the node that failed, then the place in its own sources, which tells nobody anything.
_FAILED_NODE = re.compile(r"running (?P<op>\w+) node\. Name:'(?P<name>[^']*)' Status Message: (?P<words>.*)")
_SOURCES = re.compile(r"^\S+\.(?:h|cc|cpp):\d+ (?:[\w:~<>]+\([^)]*\) )?(?:.*? was false\. )?")


def make_options() -> ort.SessionOptions:
    """Return options for one thread that says nothing but errors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Denormals stay as they are: the same numbers as TensorRT's and on every thread.
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    return options


def open_session(path: Path, *, keeps_memory: bool = True) -> ort.InferenceSession:
    """Open a model that is optimized already; one that is run once need keep no memory. Raises CalibrationProblem."""
    options = make_options()
    options.enable_cpu_mem_arena = keeps_memory
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except RUNTIME_ERRORS as error:
        raise CalibrationProblem(reason=f"onnxruntime cannot load the model: {words_of(error, path)}") from None


def run_session(
    session: ort.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> list[np.ndarray]:
    """Return the named outputs; raises CalibrationProblem with the runtime's words and the batch's shape."""
    try:
        return [np.asarray(output) for output in session.run(list(names), dict(feeds))]
    except RUNTIME_ERRORS as error:
        raise CalibrationProblem(reason=f"the model does not run on a batch of shape {shape}: {_words_of_run(error)}") from None


def _words_of_run(error: Exception) -> str:
    failed = _FAILED_NODE.search(words := words_of(error))
    if failed is None:
        return words
    named = f"node {failed['name']} ({failed['op']})" if failed["name"] else f"a node {failed['op']}"
    return f"{named} fails: {_SOURCES.sub('', failed['words']).rstrip('.')}"
