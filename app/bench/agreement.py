"""Whether two calibrators found the same thresholds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_SAME = 0.01


def compare_amax(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """Return {"tensors": in both, "same": share within 1 %, "median_difference", "largest_difference", "tensor"}.

    A difference is |theirs / ours - 1|; None where no tensor is in both.
    """
    both = sorted(name for name in ours.keys() & theirs.keys() if ours[name] > 0)
    if not both:
        return {"tensors": 0, "same": None, "median_difference": None, "largest_difference": None, "tensor": None}
    differences = np.array([abs(theirs[name] / ours[name] - 1) for name in both])
    return {
        "tensors": len(both),
        "same": float((differences <= _SAME).mean()),
        "median_difference": float(np.median(differences)),
        "largest_difference": float(differences.max()),
        "tensor": both[int(differences.argmax())],
    }
