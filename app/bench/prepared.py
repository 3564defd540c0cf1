"""The first part of our calibration: the model is prepared, once for a machine, by the step that a worker runs."""

from collections.abc import Callable
from typing import Any

from app.bench.meter import Meter
from app.bench.subject import Subject
from app.worker.steps.prepare import prepare as prepare_model


def prepare(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Prepare the model to be observed, in the folder `out`; return what a Meter does.

    request: {"subject", "observe": needed or all, "out"}.
    """
    subject = Subject.from_json(request["subject"])
    meter = Meter()
    meter.started()
    asked = {"observe": request["observe"], "grid": "mergeable", "equalize": False, "image_shape": [1, *subject.shape]}
    prepare_model(asked | {"model": subject.model, "observer": "onnxruntime", "out": request["out"]}, report)
    return meter.ended()
