"""What every observer does, and the loop that feeds it."""

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from app.quant.observation import Observation

Report = Callable[[dict[str, Any]], None]

_REPORT_SECONDS = 0.2


class Observer(Protocol):
    """Counts the activations of batch after batch, `float32[N, C, H, W]` or NHWC; a context manager."""

    @property
    def images(self) -> int:
        """Images whose activations are counted, or will be soon."""
        ...

    @property
    def total_images(self) -> int | None:
        """Images to come in all, if known."""
        ...

    @property
    def mixed(self) -> tuple[str, ...]:
        """Tensors in which images that the model takes at once depend on one another; known after the first batch."""
        ...

    @property
    def unit_images(self) -> int:
        """Images that are counted together or not at all: those of a pass where they depend on one another, else 1."""
        ...

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Count a batch. Raises CalibrationNonfinite, CalibrationProblem, also for earlier ones."""
        ...

    def observation(self) -> Observation:
        """Return what was observed so far; more may be added. Raises as add does, DatasetTooSmall without images."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None: ...


def observe_all(
    observer: Observer,
    batches: Iterable[npt.NDArray[np.float32]],
    report: Report,
    meanwhile: Callable[[], None] | None = None,
) -> Observation:
    """Return the histograms over all batches, in the order in which they come; open and close the observer.

    `meanwhile` is done once when all batches were taken, as a rule before they are counted. Reports `{"progress": [images
    done, total or None]}`. Raises what the observer raises.
    """
    reported_at = time.monotonic()
    with observer:
        for batch in batches:
            observer.add(batch)
            if time.monotonic() - reported_at >= _REPORT_SECONDS:
                reported_at = time.monotonic()
                report({"progress": [observer.images, observer.total_images]})
        if meanwhile:
            meanwhile()
        observation = observer.observation()
    report({"progress": [observation.images, observer.total_images]})
    return observation
