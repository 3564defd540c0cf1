"""Which points of a drift curve say something: those between which the images about doubled."""

from typing import Any

import pytest

from app.quant.drift_points import doublings, last_doubling, line_from_points


def point(since: int, images: int, drift: float | None = 0.1, method: str = "minmax") -> dict[str, Any]:
    return {"since": since, "images": images, "drift": drift, "tensor": "conv1", "method": method}


@pytest.mark.parametrize(
    ("spans", "last"),
    [
        ([(25, 50), (50, 100)], (50, 100)),
        ([(25, 50), (50, 100), (100, 107)], (50, 100)),
        ([(16, 32), (32, 64), (64, 128), (128, 150)], (64, 128)),
        ([(11, 22), (22, 33), (33, 60)], (33, 60)),  # passes of 11 images: 33 is as near to the half as can be
        ([(55, 110), (110, 200)], (110, 200)),
    ],
)
def test_a_few_more_images_are_no_doubling(spans: list[tuple[int, int]], last: tuple[int, int]) -> None:
    points = [point(*span, method=method) for span in spans for method in ("minmax", "percentile")]
    assert last_doubling(points) == [point(*last), point(*last, method="percentile")]


def test_where_nothing_doubled_nothing_is_told() -> None:
    assert last_doubling([]) == last_doubling([point(100, 107)]) == doublings([point(100, 107)]) == []


def test_one_line_tells_a_look() -> None:
    line = line_from_points([point(16, 32, 0.031234), point(16, 32, None, "percentile")])
    assert line == "32 images: since 16 amax moved at most 3.12 % (minmax: conv1), from zero (percentile: conv1)"
