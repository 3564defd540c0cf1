"""What the command line tells of a job's calibration."""

from typing import Any

from app.client.summary import lines_from_outcome


def point(since: int, images: int) -> dict[str, Any]:
    return {"since": since, "images": images, "drift": 0.25, "tensor": "conv1", "method": "minmax"}


def lines_on(*spans: tuple[int, int]) -> list[str]:
    table = {"drift": {"percentile": 99.99, "points": [point(*span) for span in spans]}}
    return [line for line in lines_from_outcome({"id": "job_1", "state": "succeeded", "table": table}) if "moved" in line]


def test_the_drift_of_the_last_doubling_is_told() -> None:
    (line,) = lines_on((25, 50), (50, 100), (100, 107))
    assert line == "drift      from 50 to 100 images amax moved at most by minmax 25.00 % (conv1)"


def test_no_drift_is_told_where_too_few_images_came() -> None:
    assert not lines_on((100, 107))
