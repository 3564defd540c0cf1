"""What is chosen is chosen on other images than the final figure is measured on, as long as there are any."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.spec import JobSpec
from app.worker.steps.choose import choose_method
from app.worker.steps.images import PERHAPS_CALIBRATION, choosing_files, judge_files


def listing(folder: Path, name: str, images: int) -> str:
    path = folder / f"{name}.json"
    files = [{"path": f"{name}/{number:04}.png", "sha256": f"{number:064}"} for number in range(images)]
    path.write_text(json.dumps({"files": files}))
    return str(path)


def request(folder: Path, calibration: int, judge: int | None, max_images: int | None = None) -> dict[str, Any]:
    own = listing(folder, "own", calibration)
    other = listing(folder, "other", judge) if judge else own
    calibrated = {"listing": own, "max_images": max_images, "converge": None, "taken": None, "is_own": True}
    return {"judge": {"listing": other}, "dataset": {"listing": own}, "is_apart": judge is not None, "calibration": calibrated}


@pytest.mark.parametrize(
    ("images", "max_images", "judge", "expected"),
    [
        ({"calibration": 500, "judge": 1500}, None, 300, (300, "judge", "other images of: judge dataset")),
        ({"calibration": 500, "judge": 320}, None, 300, (300, "dataset", "calibration")),
        ({"calibration": 500, "judge": 300}, None, 300, (300, "dataset", "calibration")),
        ({"calibration": 40, "judge": 300}, None, 300, (300, "judge", "judged images")),
        ({"calibration": 256, "judge": None}, 100, 50, (50, "judge", "other images of: held out")),
        ({"calibration": 256, "judge": None}, 128, 200, (128, "dataset", "calibration")),
        ({"calibration": 500, "judge": None}, None, 200, (200, "judge", "other images of: calibration")),
        ({"calibration": 50, "judge": None}, None, 200, (50, "judge", "judged images")),
    ],
)
def test_where_the_images_are_from(
    tmp_path: Path, images: dict[str, Any], max_images: int | None, judge: int, expected: tuple[int, str, str]
) -> None:
    spec = JobSpec.model_validate(
        {"model": "m", "dataset": "d", "calibration": {"max_images": max_images}, "judge": {"images": judge}}
    )
    asked = request(tmp_path, **images, max_images=max_images)
    chosen = choosing_files(asked, spec)
    assert (len(chosen.files), chosen.dataset, chosen.source) == expected
    judged = {entry["path"] for entry in judge_files(asked, spec)[0]}
    assert chosen.is_sampled == (not judged & {entry["path"] for entry in chosen.files})


SPEC = JobSpec.model_validate({"model": "m", "dataset": "d", "judge": {"images": 1000}})


@pytest.mark.parametrize(("taken", "expected"), [(None, (20, "held out")), (10, (30, "held out"))])
def test_images_that_a_table_of_another_dataset_saw_are_known_by_their_bytes(
    tmp_path: Path, taken: int | None, expected: tuple[int, str]
) -> None:
    foreign = {"listing": listing(tmp_path, "foreign", 20), "max_images": None, "converge": None, "taken": taken}
    asked = request(tmp_path, 40, None) | {"calibration": foreign | {"is_own": False}}
    files, source = judge_files(asked, SPEC)
    assert (len(files), source) == expected
    assert files[0]["path"] == f"own/{taken or 20:04}.png"


def test_of_a_table_from_outside_nobody_knows(tmp_path: Path) -> None:
    asked = request(tmp_path, 40, None) | {"calibration": None}
    assert (len(judge_files(asked, SPEC)[0]), judge_files(asked, SPEC)[1]) == (40, PERHAPS_CALIBRATION)
    beside = request(tmp_path, 500, 40) | {"calibration": None}
    assert judge_files(beside, SPEC)[1] == "judge dataset"
    assert choosing_files(beside, SPEC).source == PERHAPS_CALIBRATION


def test_a_dataset_that_is_also_judged_on_does_not_choose_in_secret(tmp_path: Path) -> None:
    asked = request(tmp_path, 120, None) | {"is_apart": True}
    chosen = choosing_files(asked, SPEC)
    assert (chosen.source, chosen.is_sampled) == ("judged images", False)


@pytest.mark.parametrize(
    ("agreements", "images", "error", "expected"),
    [
        ((0.93, 0.969), 128, 0.06, "quiet"),
        ((0.93, 0.969), 128, 0.08, "noisy"),  # errs more than half as much
        ((0.93, 0.969), 1000, 0.06, "noisy"),  # no chance any more
        ((0.97, 0.97), 128, 0.14, "quiet"),
        ((None, None), 9, 0.14, "quiet"),
    ],
)
def test_votes_within_chance_give_way_to_a_clearly_smaller_error(
    agreements: tuple[float | None, float | None], images: int, error: float, expected: str
) -> None:
    reports = {
        "quiet": {"agreement": agreements[0], "mean_error": error, "images": images},
        "noisy": {"agreement": agreements[1], "mean_error": 0.15, "images": images},
    }
    assert choose_method(reports) == expected
