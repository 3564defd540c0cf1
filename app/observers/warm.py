"""Bring into memory what the first forward pass and the first count of a process wait for: the code of both."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.native.kernel import is_kept
from app.observers.counting import MODULE, load
from app.observers.session import make_options, open_session

#: Of each kind of layer that convolutional nets are made of a small one: the runtime's code for them is read from disk.
MODEL = Path(__file__).with_name("warm.onnx")
_KERNEL = "count_mergeable"


def warm_runtime() -> None:
    """Run a tiny model once."""
    session = ort.InferenceSession(str(MODEL), make_options(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    session.run(None, {given.name: np.zeros(given.shape, np.float32)})
    open_session(MODEL)  # as it is, without the optimizer: another way through the runtime


def warm_observer() -> None:
    """Get ready to observe. A kernel that is not compiled yet is left alone: that takes seconds."""
    warm_runtime()
    if is_kept(MODULE, _KERNEL):
        load(_KERNEL)
