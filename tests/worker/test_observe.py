"""The step observe: known images are not run again, and the bytes are those of a run from scratch."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import ImageCorrupt
from app.worker.steps.observe import observe
from tests.worker.observing import DIGITS, ignore, observed, request_on, store_dataset

PATHS = list(DIGITS)


@pytest.fixture
def known(tmp_path: Path) -> dict[str, str]:
    """The observation of every third of the first 60 digits."""
    folder = tmp_path / "known"
    folder.mkdir()
    dataset = store_dataset(folder, {path: DIGITS[path] for path in PATHS[:60:3]})
    observe(request_on(dataset, folder / "observation"), ignore)
    return {"observation": str(folder / "observation"), "listing": dataset["listing"]}


def merging(request: dict[str, Any], known: dict[str, str], out: Path) -> dict[str, Any]:
    return request | {"known": known, "out": str(out)}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_added_images_give_the_bytes_of_a_run_from_scratch(tmp_path: Path, known: dict[str, str], batch_size: int) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]})
    scratch = request_on(dataset, tmp_path / "scratch", batch_size=batch_size)
    added = merging(scratch, known, tmp_path / "merged")
    assert observed(added) == observed(scratch)
    report = observe(added, ignore)
    assert (report["images"], report["known"]) == (60, 20)


def test_only_the_added_images_are_decoded(tmp_path: Path, known: dict[str, str]) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]})
    told: list[dict[str, Any]] = []
    observe(merging(request_on(dataset, tmp_path / "out"), known, tmp_path / "out"), told.append)
    assert told[-1] == {"progress": [40, 40]}


def test_the_share_of_bad_images_is_one_of_all(tmp_path: Path, known: dict[str, str]) -> None:
    bad = DIGITS[PATHS[1]][:100]
    files = {path: DIGITS[path] for path in PATHS[:60:3]} | {PATHS[1]: bad}
    dataset = store_dataset(tmp_path, files)
    skipping = {"on_bad_image": "skip", "max_bad_fraction": 0.05}
    scratch = request_on(dataset, tmp_path / "scratch", **skipping)
    assert observed(merging(scratch, known, tmp_path / "merged")) == observed(scratch)
    strict = request_on(dataset, tmp_path / "out", on_bad_image="skip", max_bad_fraction=0.04)
    for request in (strict, merging(strict, known, tmp_path / "out")):
        with pytest.raises(ImageCorrupt):
            observe(request, ignore)
