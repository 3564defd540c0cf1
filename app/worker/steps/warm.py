"""What a spare process does while nobody waits for it: the imports of most steps, and the observer's first pass."""

from app.observers.warm import warm_observer
from app.worker.steps import observe as _most_imports  # noqa: F401 - loaded for the steps to come


def warm_up() -> None:
    """Get ready for a step, above all `observe`; another step loads the rest of what it needs itself."""
    warm_observer()
