"""Points of a drift curve, {"since", "images", "drift", "tensor", "method"} as in `Convergence`: lines, and doublings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]

#: A look waits until a pass is full, so a doubling may begin with a few more images than half of those it ends with.
_DOUBLING = 1.75


def doublings(points: Iterable[Point]) -> list[Point]:
    """Return the points between whose looks the images about doubled; that fewer moved nothing proves little."""
    return [point for point in points if point["images"] >= _DOUBLING * point["since"]]


def last_doubling(points: Iterable[Point]) -> list[Point]:
    """Return the points, one a method, of the last doubling; none where there was none."""
    found = doublings(points)
    return [point for point in found if point["images"] == found[-1]["images"]]


def line_from_points(points: Sequence[Point]) -> str:
    """Return one line on the points of one look, one a method or one in all."""
    moves = (f"{share_from_drift(point['drift'])} ({point['method']}: {point['tensor'] or 'no tensor'})" for point in points)
    return f"{points[0]['images']} images: since {points[0]['since']} amax moved at most {', '.join(moves)}"


def share_from_drift(drift: float | None) -> str:
    """Return a point's drift in percent."""
    return "from zero" if drift is None else f"{100 * drift:.3g} %"
