"""What is chosen is chosen on other images than the final figure is measured on, as long as there are any."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.spec import JobSpec
from app.worker.steps.images import choosing_files, judge_files


def listing(folder: Path, name: str, images: int) -> str:
    path = folder / f"{name}.json"
    files = [{"path": f"{name}/{number:04}.png", "sha256": "0" * 64} for number in range(images)]
    path.write_text(json.dumps({"files": files}))
    return str(path)


def request(folder: Path, calibration: int, judge: int | None) -> dict[str, Any]:
    own = listing(folder, "own", calibration)
    other = listing(folder, "other", judge) if judge else own
    return {"judge": {"listing": other}, "dataset": {"listing": own}, "calibration": None if judge else own, "taken": None}


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
    asked = request(tmp_path, **images)
    chosen = choosing_files(asked, spec)
    assert (len(chosen.files), chosen.dataset, chosen.source) == expected
    judged = {entry["path"] for entry in judge_files(asked, spec)[0]}
    assert chosen.is_sampled == (not judged & {entry["path"] for entry in chosen.files})
