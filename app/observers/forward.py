"""The sessions of a prepared model, run segment by segment."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from app.observers.prepared import Prepared, Segment
from app.observers.session import open_session, run_session

Batch = npt.NDArray[np.float32]


class Forward:
    """The sessions of a prepared model's segments; threads share them."""

    def __init__(self, prepared: Prepared, *, keeps_memory: bool = True) -> None:
        """Open the segments; raises CalibrationProblem."""
        self.prepared = prepared
        files = [prepared.folder / segment.file for segment in prepared.segments]
        self.sessions = [open_session(file, keeps_memory=keeps_memory) for file in files]

    def run_unbound(self, batch: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        """Yield what each segment gives for the images of one pass; raises CalibrationProblem."""
        values = {self.prepared.plan.input: batch}
        segments = self.prepared.segments
        for number, (session, segment) in enumerate(zip(self.sessions, segments, strict=True)):
            given = run_segment(session, segment, values, batch.shape)
            yield given
            later = {name for segment in segments[number + 1 :] for name in segment.inputs}
            values = {name: value for name, value in (values | given).items() if name in later}


def run_segment(
    session: ort.InferenceSession, segment: Segment, values: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return the outputs of a segment, given values of its inputs, for a batch of that shape; raises CalibrationProblem."""
    feeds = {name: values[name] for name in segment.inputs}
    return dict(zip(segment.outputs, run_session(session, segment.outputs, feeds, shape), strict=True))
