"""Images and what the FP32 model makes of them, kept in a folder: many INT8 models are compared on them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.engines.onnxruntime import OnnxRuntimeRunner, open_session, open_tested, session_options
from app.quant.judge import Comparison
from app.quant.qdq import model_to_bytes

Labelled = tuple[np.ndarray, Sequence[int | None]]


class Reference:
    """Batches of images with their labels, and the FP32 model's outputs; on disk, so that memory stays flat."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        self._outputs: list[str] = []
        self._labels: list[Sequence[int | None]] = []

    def add_all(self, model: Path, batches: Iterable[Labelled]) -> None:
        """Run the FP32 model on all batches. Raises EngineProblem."""
        runner = OnnxRuntimeRunner(open_session(model, session_options(self._threads)))
        for number, (batch, labels) in enumerate(batches):
            outputs = runner.run(batch)
            self._outputs = list(outputs)
            np.savez(self._path(number), batch, *outputs.values())
            self._labels.append(labels)

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(len(labels) for labels in self._labels)

    def compare(self, tested: onnx.ModelProto, images: int | None = None) -> dict[str, Any]:
        """Return `Comparison.to_json` of an INT8 model, on the first batches that have so many images together."""
        path = self._folder / "tested.onnx"
        path.write_bytes(model_to_bytes(tested))
        session, _disabled = open_tested(path, tested, session_options(self._threads))
        runner = OnnxRuntimeRunner(session)
        comparison = Comparison()
        for number, labels in enumerate(self._labels):
            if images is not None and comparison.images >= images:
                break
            with np.load(self._path(number)) as stored:
                batch, *outputs = (stored[name] for name in stored.files)
            comparison.add(dict(zip(self._outputs, outputs, strict=True)), runner.run(batch), labels)
        return comparison.to_json()

    def _path(self, number: int) -> Path:
        return self._folder / f"images-{number}.npz"
