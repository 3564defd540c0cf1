"""Shards: parts that are observed apart and merged give the bytes of one pass, and may skip no more than it."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ImageCorrupt
from app.worker.context import sum_progress
from app.worker.steps.merge import merge
from app.worker.steps.observe import observe, select_part
from tests.worker.observing import DIGITS, ignore, observed, request_on, store_dataset

PATHS = list(DIGITS)
SKIPPING = {"on_bad_image": "skip", "max_bad_fraction": 0.1}


def observe_shards(request: dict[str, Any], shards: int, tell: Callable[[dict[str, Any]], None] = ignore) -> dict[str, Any]:
    """Observe the parts one after the other and merge them into the request's `out`; return the report."""
    requests = [request | {"part": [number, shards], "out": f"{request['out']}-{number}"} for number in range(shards)]
    reports = [observe(part, tell) for part in requests]
    parts = [part["out"] for part in requests]
    return merge({"parts": parts, "known": request["known"], "reports": reports, "out": request["out"]}, tell)


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_shards_give_the_bytes_of_one_pass(tmp_path: Path, shards: int) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:40]})
    whole = observed(request_on(dataset, tmp_path / "whole"))
    told: list[dict[str, Any]] = []
    report = observe_shards(request_on(dataset, tmp_path / "merged"), shards, told.append)
    assert (tmp_path / "merged").read_bytes() == whole
    assert (report["images"], report["shards"], report["skipped"]) == (40, shards, [])
    looks = [point["images"] for point in report["drift"]["points"] if point["method"] == "minmax"]
    assert looks == {2: [40], 3: [26, 40], 7: [11, 22, 40]}[shards]
    lines = [event["log"] for event in told if "amax moved" in event.get("log", "")]
    assert [line.split()[0] for line in lines] == [str(images) for images in looks]


def test_shards_of_the_added_images(tmp_path: Path) -> None:
    (tmp_path / "known").mkdir()
    old = store_dataset(tmp_path / "known", {path: DIGITS[path] for path in PATHS[:10]})
    observe(request_on(old, tmp_path / "known" / "observation"), ignore)
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:25]})
    scratch = request_on(dataset, tmp_path / "scratch")
    known = {"observation": str(tmp_path / "known" / "observation"), "images": 10, "listing": old["listing"]}
    report = observe_shards(scratch | {"known": known, "out": str(tmp_path / "merged")}, 2)
    assert (tmp_path / "merged").read_bytes() == observed(scratch)
    assert (report["images"], report["known"]) == (25, 10)


def test_bad_images_are_counted_over_all_shards(tmp_path: Path) -> None:
    files = {path: DIGITS[path] for path in PATHS[:20]}
    files |= {path: DIGITS[path][:80] for path in PATHS[:2]}
    dataset = store_dataset(tmp_path, files)
    whole = observed(request_on(dataset, tmp_path / "whole", **SKIPPING))
    report = observe_shards(request_on(dataset, tmp_path / "merged", **SKIPPING), 10)  # the first shard has bad ones alone
    assert (tmp_path / "merged").read_bytes() == whole
    assert (report["images"], report["skipped_count"]) == (18, 2)
    files[PATHS[15]] = files[PATHS[15]][:80]
    dataset = store_dataset(tmp_path, files)
    with pytest.raises(ImageCorrupt):
        observe_shards(request_on(dataset, tmp_path / "out", **SKIPPING), 2)


@pytest.mark.parametrize(("count", "shards"), [(10, 3), (64, 64), (7, 7), (1, 1)])
def test_parts_are_contiguous_and_none_is_empty(count: int, shards: int) -> None:
    files = [{"path": str(number)} for number in range(count)]
    parts = [select_part(files, [number, shards]) for number in range(shards)]
    assert [entry for part in parts for entry in part] == files
    assert all(parts)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 29), max_size=29), st.integers(1, 6), st.integers(1, 9))
def test_any_known_part_and_any_shards_give_the_same_bytes(
    tmp_path: Path, known: set[int], shards: int, batch_size: int
) -> None:
    with TemporaryDirectory(dir=tmp_path) as name:
        folder = Path(name)
        dataset = store_dataset(folder, {path: DIGITS[path] for path in PATHS[:30]})
        request = request_on(dataset, folder / "whole", batch_size=batch_size)
        whole = observed(request)
        if known:
            (folder / "old").mkdir()
            old = store_dataset(folder / "old", {PATHS[place]: DIGITS[PATHS[place]] for place in known})
            observe(request_on(old, folder / "old" / "observation"), ignore)
            request |= {
                "known": {"observation": str(folder / "old" / "observation"), "images": len(known), "listing": old["listing"]}
            }
        observe_shards(request | {"out": str(folder / "merged")}, min(shards, 30 - len(known)))
        assert (folder / "merged").read_bytes() == whole


def test_progress_adds_up() -> None:
    assert sum_progress([[3, 10]], 2) == [3, None]
    assert sum_progress([[3, 10], [1, 9]], 2) == [4, 19]
