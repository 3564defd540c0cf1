"""calibration.converge: no more images than needed, and the same bytes as if so many had been asked for."""

from pathlib import Path
from typing import Any

import pytest

from app.worker.steps.images import judge_files, tuning_files
from app.worker.steps.observe import observe
from tests.observers.nets import save_mixing_net
from tests.worker.observing import DIGITS, ignore, observed, request_on, spec_on, store_dataset

PATHS = list(DIGITS)


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, Any]:
    return store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:150]})


@pytest.mark.parametrize("method", ["minmax", "auto"])
def test_stops_with_the_bytes_of_max_images(tmp_path: Path, dataset: dict[str, Any], method: str) -> None:
    request = request_on(dataset, tmp_path / "out", method=method, converge=0.9)
    converge = observe(request, ignore)["converge"]
    sufficed = converge["images"]
    assert converge["converged"]
    assert (sufficed, converge["of"], converge["taken"]) == (32, 150, 32)
    assert (tmp_path / "out").read_bytes() == observed(request_on(dataset, tmp_path / "fewer", max_images=sufficed))
    assert [point["images"] for point in converge["curve"]] == [32]


@pytest.mark.parametrize("batch_size", [1, 50])
def test_uses_all_images_where_the_thresholds_move(tmp_path: Path, dataset: dict[str, Any], batch_size: int) -> None:
    request = request_on(dataset, tmp_path / "out", method="minmax", converge=1e-9, batch_size=batch_size)
    report = observe(request, ignore)
    converge = report["converge"]
    assert not converge["converged"]
    assert [point["images"] for point in converge["curve"]] == [32, 64, 128, 150]
    assert all(point["drift"] > 0 and point["tensor"] for point in converge["curve"][:3])
    assert [point for point in report["drift"]["points"] if point["method"] == "minmax"] == converge["curve"]
    assert (tmp_path / "out").read_bytes() == observed(request_on(dataset, tmp_path / "whole"))


def test_the_log_tells_how_far_the_watched_thresholds_moved(tmp_path: Path, dataset: dict[str, Any]) -> None:
    told: list[dict[str, Any]] = []
    curve = observe(request_on(dataset, tmp_path / "out", method="mse", converge=1e-9), told.append)["converge"]["curve"]
    lines = [event["log"] for event in told if "amax moved" in event.get("log", "")]
    assert lines == [
        f"{point['images']} images: since {point['since']} amax moved at most {100 * point['drift']:.3g} %"
        f" (mse: {point['tensor']})"
        for point in curve
    ]
    assert len(lines) == 4


def test_what_came_after_the_last_doubling_is_told_apart(tmp_path: Path) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:33]})
    told: list[dict[str, Any]] = []
    observe(request_on(dataset, tmp_path / "out", method="minmax", converge=0.001), told.append)
    (line,) = [event["log"] for event in told if "doubling" in event.get("log", "")]
    assert line.startswith("all 33 images were used: no doubling left every amax within 0.1 %; from 16 to 32 images ")


def test_few_images_prove_nothing(tmp_path: Path) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:9]})
    report = observe(request_on(dataset, tmp_path / "out", method="minmax", converge=0.5), ignore)
    assert report["images"] == 9
    assert (report["converge"]["converged"], report["converge"]["curve"]) == (False, [])


def test_bad_images_do_not_shift_the_looks(tmp_path: Path) -> None:
    files = {path: DIGITS[path] for path in PATHS[:100]} | {PATHS[0]: DIGITS[PATHS[0]][:80]}
    dataset = store_dataset(tmp_path, files)
    skipping = {"on_bad_image": "skip", "max_bad_fraction": 0.1}
    converge = observe(request_on(dataset, tmp_path / "out", method="minmax", converge=0.9, **skipping), ignore)["converge"]
    assert (converge["images"], converge["taken"]) == (32, 33)


@pytest.mark.parametrize(("batch", "looks"), [(8, [32]), (12, [48]), (32, [64])])
def test_looks_are_between_passes_where_images_of_a_pass_depend_on_one_another(
    tmp_path: Path, dataset: dict[str, Any], batch: int, looks: list[int]
) -> None:
    model = save_mixing_net(tmp_path, (batch, 1, 28, 28))
    request = request_on(dataset, tmp_path / "out", model, method="minmax", converge=0.9, max_images=96)
    converge = observe(request, ignore)["converge"]
    assert (converge["converged"], [point["images"] for point in converge["curve"]]) == (True, looks)
    assert converge["images"] == converge["taken"] == looks[-1]


def test_images_that_were_not_needed_are_held_out(tmp_path: Path, dataset: dict[str, Any]) -> None:
    spec = spec_on(method="minmax", converge=0.9)
    calibration = {
        "listing": dataset["listing"],
        "max_images": None,
        "converge": {"fraction": 0.9},
        "taken": 32,
        "is_own": True,
    }
    request = {"judge": dataset, "is_apart": False, "calibration": calibration}
    files, source = judge_files(request, spec)
    assert (len(files), source) == (118, "held out")
    assert judge_files(request | {"calibration": calibration | {"taken": None}}, spec)[1] == "calibration"


def test_images_that_are_held_out_are_not_tuned_on(dataset: dict[str, Any]) -> None:
    spec = spec_on(method="minmax", converge=0.9, max_images=100)
    taken = {"listing": dataset["listing"], "max_images": 100, "converge": {"fraction": 0.9}, "taken": 32, "is_own": True}
    request = {"judge": dataset, "dataset": dataset, "is_apart": False, "calibration": taken}
    tuned, (judged, source) = tuning_files(request, spec), judge_files(request, spec)
    assert (len(tuned), len(judged), source) == (32, 118, "held out")
    assert not {entry["path"] for entry in tuned} & {entry["path"] for entry in judged}
    assert [entry["path"] for entry in tuned] == sorted(entry["path"] for entry in tuned)
    for other in (None, taken | {"is_own": False}, taken | {"converge": None, "taken": None}):
        assert len(tuning_files(request | {"calibration": other}, spec)) == 100
