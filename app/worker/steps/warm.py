"""What a spare process does while nobody waits for it: the imports of most steps, and a whole observation."""

from app.native.heap import map_heap
from app.observers.warm import warm_observer
from app.quant.observation import merge_observations, observation_from_bytes, observation_to_bytes
from app.worker.steps import observe as _most_imports  # noqa: F401 - loaded for the steps to come
from app.worker.steps.drift import Drift, look_at

#: What the counts and the small arrays of a small net take.
_HEAP_BYTES = 12 << 20


def warm_up() -> None:
    """Get ready for a step, above all `observe`; what else a step needs it loads itself."""
    if (observation := warm_observer()) is not None:
        known = observation_from_bytes(observation_to_bytes(observation))
        look_at(Drift(), [known, merge_observations(known, observation)])
    map_heap(_HEAP_BYTES)
