"""Two tables side by side: how far the scales of each tensor are apart."""

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat


def diff_scales(first: Mapping[str, SupportsFloat], second: Mapping[str, SupportsFloat]) -> dict[str, Any]:
    """Return how the scales of two tables differ, as JSON values.

    tensors: [{tensor, first, second, ratio, drift}], the largest drift first; ratio = second / first, drift = how much
    larger the larger one is, as a fraction · max_drift: null without a common tensor · only_in_first, only_in_second.
    """
    rows = [_row(name, float(first[name]), float(second[name])) for name in first if name in second]
    rows.sort(key=lambda row: (-row["drift"], row["tensor"]))
    return {
        "max_drift": rows[0]["drift"] if rows else None,
        "tensors": rows,
        "only_in_first": sorted(first.keys() - second.keys()),
        "only_in_second": sorted(second.keys() - first.keys()),
    }


def exceeds(diff: Mapping[str, Any], max_drift: float) -> bool:
    """Return whether a scale moved by more than max_drift, or a tensor has one in one of the tables only."""
    moved = math.inf if diff["max_drift"] is None else diff["max_drift"]
    return moved > max_drift or bool(diff["only_in_first"] or diff["only_in_second"])


def _row(tensor: str, first: float, second: float) -> dict[str, Any]:
    ratio = second / first
    return {"tensor": tensor, "first": first, "second": second, "ratio": ratio, "drift": max(ratio, 1 / ratio) - 1}
