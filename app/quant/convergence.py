"""Whether more images still move the thresholds: the drift of amax from one doubling of the images to the next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.quant.observation import Observation
from app.quant.table import Table, compute_drift, table_from_observation

#: The first look is at so many images, every further one at twice as many.
FIRST_LOOK_IMAGES = 16


@dataclass
class Convergence:
    """Looks at an observation as it grows; `methods` are the ones whose thresholds must stand still.

    `curve` has a point for every look but the first: {"since", "images", "drift", "tensor", "method"}, from so many to so
    many images the largest |amax / earlier amax - 1| of any tensor by any method. drift is None where a tensor that was
    all zeros came alive.
    """

    methods: Sequence[str]
    percentile: float
    fraction: float
    curve: list[dict[str, Any]] = field(default_factory=list)
    _earlier: list[Table] = field(default_factory=list)
    _images: int = 0

    def look(self, observation: Observation) -> bool:
        """Return whether no amax moved by more than the fraction since the last look; False at the first."""
        tables = [table_from_observation(observation, method, self.percentile) for method in self.methods]
        pairs = zip(self._earlier, tables, strict=True) if self._earlier else ()
        moves = [_largest_move(earlier, table) for earlier, table in pairs]
        since, self._images = self._images, observation.images
        self._earlier = tables
        if not moves:
            return False
        drift, tensor, method = max(moves, key=lambda move: move[0])
        told = {"drift": drift if math.isfinite(drift) else None, "tensor": tensor, "method": method}
        self.curve.append({"since": since, "images": observation.images} | told)
        return drift <= self.fraction


def _largest_move(earlier: Table, later: Table) -> tuple[float, str | None, str]:
    drifts = compute_drift(earlier, later)
    tensor = max(drifts, key=lambda name: drifts[name], default=None)
    return (drifts[tensor] if tensor is not None else 0.0), tensor, later.method
