"""What agreement to expect: votes of a hundred images say little, but each image tells how near its classes are.

An image changes its class where INT8 moves the difference of its two likeliest classes by more than what lies between
them. With m that margin, by the reference, and s^2 the mean square by which INT8 moved it over all images, taken as
Gaussian, the share that keeps its class is the mean of Phi(m / s). On EfficientNet-Lite0 this differs by less than
half as much from one quarter of 256 photos to another as the votes do.
"""

import math
from dataclasses import dataclass, field

import numpy as np

_SUM_OF_PROBABILITIES = 1e-3
_LEAST_PROBABILITY = 1e-12


@dataclass
class Margins:
    """Adds up batches; keeps one number an image."""

    _margins: list[float] = field(default_factory=list)
    _moved_square: float = 0.0

    def add(self, reference: np.ndarray, tested: np.ndarray) -> None:
        """Count float[N, classes] of the FP32 model and of the INT8 one; probabilities count by their logarithm."""
        known, found = reference.astype(np.float64), tested.astype(np.float64)
        if _are_probabilities(known):
            known, found = (np.log(np.maximum(values, _LEAST_PROBABILITY)) for values in (known, found))
        rows, (second, first) = np.arange(len(known)), np.argsort(known, axis=1)[:, -2:].T
        margins = known[rows, first] - known[rows, second]
        moved = found[rows, first] - found[rows, second] - margins
        self._margins += margins.tolist()
        self._moved_square += float(moved @ moved)

    def expected_agreement(self) -> float | None:
        """Return the share of images like these that keep their class; None where there was no image."""
        if not self._margins:
            return None
        spread = math.sqrt(self._moved_square / len(self._margins))
        kept = (1.0 if spread == 0 else 0.5 + 0.5 * math.erf(margin / spread / math.sqrt(2)) for margin in self._margins)
        return math.fsum(kept) / len(self._margins)


def _are_probabilities(values: np.ndarray) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) < _SUM_OF_PROBABILITIES).all())
