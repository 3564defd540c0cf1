"""Bring into memory what a process's first observation waits for: the runtime's code, the kernel's and our own."""

import math
from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.native.kernel import is_kept
from app.observers.counting import MODULE
from app.observers.lanes import keep_threads
from app.observers.onnxruntime import Observer, ObserverSpec
from app.observers.prepared import Prepared, Segment, Tensor
from app.observers.session import make_options
from app.observers.views import Plan, View
from app.quant.observation import Observation

#: Of each kind of layer that convolutional nets are made of a small one: the runtime's code for them is read from disk.
MODEL = Path(__file__).with_name("warm.onnx")
_KERNEL = "count_mergeable"


def warm_runtime() -> ort.InferenceSession:
    """Run a tiny model once, and return its session."""
    session = ort.InferenceSession(str(MODEL), make_options(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    session.run(None, {given.name: np.zeros(given.shape, np.float32)})
    return session


def warm_observer() -> Observation | None:
    """Observe the tiny model and have threads ready; None, and no threads, where the kernel must be compiled first."""
    session = warm_runtime()
    if not is_kept(MODULE, _KERNEL):
        return None  # it takes seconds
    prepared, spec = _as_prepared(session), ObserverSpec()
    with Observer(prepared, spec) as observer:
        shape = (2 * spec.threads, *prepared.input_shape[1:])
        observer.add(np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape))
        observation = observer.observation()
    keep_threads(spec.threads)
    return observation


def _as_prepared(session: ort.InferenceSession) -> Prepared:
    given, made = session.get_inputs()[0], session.get_outputs()[0]
    views = {value.name: View(value.name) for value in (given, made)}
    tensors = {value.name: Tensor("float32", tuple(value.shape)) for value in (given, made)}
    segment = Segment(MODEL.name, (given.name,), (made.name,))
    return Prepared(MODEL.parent, Plan(given.name, (made.name,), views), 1, tensors, (segment,), is_bindable=True)
