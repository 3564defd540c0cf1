"""Observe until the thresholds stand still: a look after every doubling of the images."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from app.observers.observing import Observer, Report
from app.quant.convergence import FIRST_LOOK_IMAGES
from app.quant.observation import Observation


def observe_until(
    observer: Observer,
    batches: Iterable[npt.NDArray[np.float32]],
    look: Callable[[Observation], bool],
    report: Report,
) -> tuple[Observation, bool]:
    """Return the observation of as many images as suffice, which is when look says so, and whether they did; else of all.

    Batches are of one size but for the last, so that each look falls between two; the first one is at FIRST_LOOK_IMAGES or
    the next number of images that can be told apart from the rest, see `Observer.unit_images`. Raises what `observe` raises.
    """
    seen, due = 0, FIRST_LOOK_IMAGES
    observation: Observation | None = None
    with observer:
        for batch in batches:
            observer.add(batch)
            seen += len(batch)
            report({"progress": [seen, observer.total_images]})
            if seen < due or seen % observer.unit_images:
                continue
            due = 2 * seen
            observation = observer.observation()
            if look(observation):
                return observation, True
        if observation is None or observation.images < seen:
            observation = observer.observation()
            look(observation)  # for the curve: what came since is less than a doubling, so it proves nothing
    return observation, False
