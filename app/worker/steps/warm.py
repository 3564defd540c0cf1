"""What a spare process does while nobody waits for it: the imports of most steps, and the observer's first pass."""

from app.native.heap import map_heap
from app.observers.warm import warm_observer
from app.worker.steps import observe as _most_imports  # noqa: F401 - loaded for the steps to come

#: What the counts and the small arrays of a small net take.
_HEAP_BYTES = 12 << 20


def warm_up() -> None:
    """Get ready for a step, above all `observe`; what else a step needs it loads itself."""
    warm_observer()
    map_heap(_HEAP_BYTES)
