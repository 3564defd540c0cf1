"""The step observe: known images are not run again, and the bytes are those of a run from scratch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from app.errors import CalibrationProblem, CalibrationRandom, ImageCorrupt
from app.inputs.listing import spread_order
from app.observers.prepared import read_prepared
from app.quant.observation import observation_from_bytes
from app.quant.table import Table, compute_drift, table_from_observation
from app.worker.steps.drift import METHODS
from app.worker.steps.observe import observe
from app.worker.warnings import job_warnings
from tests.observers.nets import save_net
from tests.worker.observing import DIGITS, ignore, observed, request_on, store_dataset

PATHS = list(DIGITS)


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Any]:
    """The observation of every third of the first 60 digits."""
    folder = tmp_path / "known"
    folder.mkdir()
    dataset = store_dataset(folder, {path: DIGITS[path] for path in PATHS[:60:3]})
    observe(request_on(dataset, folder / "observation"), ignore)
    return {"observation": str(folder / "observation"), "images": 20, "listing": dataset["listing"]}


def merging(request: dict[str, Any], known: Mapping[str, Any], out: Path) -> dict[str, Any]:
    return request | {"known": known, "out": str(out)}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_added_images_give_the_bytes_of_a_run_from_scratch(tmp_path: Path, known: dict[str, Any], batch_size: int) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]})
    scratch = request_on(dataset, tmp_path / "scratch", batch_size=batch_size)
    added = merging(scratch, known, tmp_path / "merged")
    assert observed(added) == observed(scratch)
    report = observe(added, ignore)
    assert (report["images"], report["known"]) == (60, 20)


def test_only_the_added_images_are_decoded(tmp_path: Path, known: dict[str, Any]) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]})
    told: list[dict[str, Any]] = []
    observe(merging(request_on(dataset, tmp_path / "out"), known, tmp_path / "out"), told.append)
    assert [event for event in told if "progress" in event][-1] == {"progress": [40, 40]}


def test_damage_of_what_is_known_is_told(tmp_path: Path, known: dict[str, Any]) -> None:
    path = Path(known["observation"])
    path.write_bytes(path.read_bytes()[:-1])
    request = request_on(store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]}), tmp_path / "out")
    with pytest.raises(CalibrationProblem, match="damaged"):
        observe(merging(request, known, tmp_path / "out"), ignore)
    assert not (tmp_path / "out").exists()


def test_the_share_of_bad_images_is_one_of_all(tmp_path: Path, known: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("batch_size", [1, 50])
def test_drift_is_told_from_eighth_to_whole_whatever_the_batches(tmp_path: Path, batch_size: int) -> None:
    order = spread_order(PATHS[:150])
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in order})
    report = observe(request_on(dataset, tmp_path / "out", batch_size=batch_size), ignore)
    points = [(point["since"], point["images"], point["method"], point["drift"]) for point in report["drift"]["points"]]
    counts = sorted({images for point in points for images in point[:2]})
    assert (len(points), counts[-1]) == (6, 150)
    assert all(150 / share <= count < 150 / share + 16 for share, count in zip((8, 4, 2), counts, strict=False))
    tables = {count: tables_of_first(tmp_path / str(count), order[:count]) for count in counts}
    for since, images, method, drift in points:
        assert drift == max(compute_drift(tables[since][method], tables[images][method]).values())


def tables_of_first(folder: Path, paths: list[str], grid: str = "mergeable") -> dict[str, Table]:
    folder.mkdir()
    dataset = store_dataset(folder, {path: DIGITS[path] for path in paths})
    observation = observation_from_bytes(observed(request_on(dataset, folder / "out", grid=grid, batch_size=8)))
    return {method: table_from_observation(observation, method) for method in METHODS}


def test_the_log_tells_the_drift_at_every_look(tmp_path: Path, known: dict[str, Any]) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]})
    request = request_on(dataset, tmp_path / "scratch")
    for more in (request, merging(request, known, tmp_path / "merged")):
        told: list[dict[str, Any]] = []
        points = observe(more, told.append)["drift"]["points"]
        lines = [event["log"] for event in told if "amax moved" in event.get("log", "")]
        spans = dict.fromkeys((point["since"], point["images"]) for point in points)
        assert len(spans) > 1
        assert [line.split(" at most ")[0] for line in lines] == [
            f"{images} images: since {since} amax moved" for since, images in spans
        ]
        last = [f"{100 * point['drift']:.3g} % ({point['method']}: {point['tensor']})" for point in points[-2:]]
        assert lines[-1].endswith(" at most " + ", ".join(last))


def test_drift_of_known_images_goes_on(tmp_path: Path, known: dict[str, Any]) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:60]})
    told = [{"since": 5, "images": 10}, {"since": 10, "images": 19}, {"since": 19, "images": 20}]
    request = merging(request_on(dataset, tmp_path / "scratch"), known | {"drift": {"points": told}}, tmp_path / "merged")
    *earlier, first, second, third, fourth = observe(request, ignore)["drift"]["points"]
    assert earlier == told[:2]  # the last was no doubling, and newer ones came
    points = [first, second, third, fourth]
    doublings = [(20, 31), (31, 60)]  # 30 is the half of all, and a pass takes 11
    expected = [(since, images, name) for since, images in doublings for name in METHODS]
    assert [(point["since"], point["images"], point["method"]) for point in points] == expected
    assert all(point["drift"] > 0 for point in points[-2:])


def test_drift_of_a_few_added_images_is_told_at_the_end_alone(tmp_path: Path, known: dict[str, Any]) -> None:
    few = store_dataset(tmp_path, {path: DIGITS[path] for path in sorted({*PATHS[:60:3], *PATHS[:8]})})
    points = observe(merging(request_on(few, tmp_path / "scratch"), known, tmp_path / "merged"), ignore)["drift"]["points"]
    assert [(point["since"], point["images"]) for point in points] == [(20, 25), (20, 25)]


def test_images_of_one_pass_have_no_halves(tmp_path: Path) -> None:
    request = request_on(store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:30]}), tmp_path / "out")
    full = read_prepared(Path(request["prepared"]["folder"])).images
    (tmp_path / "few").mkdir()
    few = store_dataset(tmp_path / "few", {path: DIGITS[path] for path in PATHS[:full]})
    assert observe(request | {"dataset": few}, ignore)["drift"]["points"] == []


def test_images_that_are_skipped_make_no_look(tmp_path: Path, known: dict[str, Any]) -> None:
    skipping = {"on_bad_image": "skip", "max_bad_fraction": 0.9}
    full = read_prepared(Path(request_on({}, tmp_path / "probe")["prepared"]["folder"])).images
    files = {path: DIGITS[path] for path in PATHS[: 2 * full]}
    files |= {path: DIGITS[path][:80] for path in PATHS[1 : 2 * full : 2]}
    report = observe(request_on(store_dataset(tmp_path, files), tmp_path / "half", **skipping), ignore)
    assert (report["images"], report["skipped_count"], report["drift"]["points"]) == (full, full, [])
    files = {path: DIGITS[path] for path in PATHS[:60:3]} | {PATHS[1]: DIGITS[PATHS[1]][:80]}
    request = request_on(store_dataset(tmp_path, files), tmp_path / "none", **skipping)
    assert observe(merging(request, known, tmp_path / "none"), ignore)["drift"]["points"] == []


def test_drift_on_tensorrts_grid_is_told_between_batches(tmp_path: Path) -> None:
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:44]})
    report = observe(request_on(dataset, tmp_path / "out", grid="tensorrt", batch_size=8), ignore)
    points = [(point["since"], point["images"], point["method"], point["drift"]) for point in report["drift"]["points"]]
    assert [point[:2] for point in points[::2]] == [(8, 16), (16, 24), (24, 44)]
    folders = {count: tmp_path / str(count) for count in (8, 16, 24, 44)}
    tables = {count: tables_of_first(folder, PATHS[:count], grid="tensorrt") for count, folder in folders.items()}
    for since, images, method, drift in points:
        assert drift == max(compute_drift(tables[since][method], tables[images][method]).values())


def test_of_images_that_an_early_stop_left_out_none_is_a_copy(tmp_path: Path) -> None:
    copies = {f"copy-{path}": DIGITS[path] for path in PATHS[:64]}
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:64]} | copies)
    report = observe(request_on(dataset, tmp_path / "out", converge=0.99, method="minmax"), ignore)
    assert report["images"] < 128
    taken = spread_order(sorted([*PATHS[:64], *copies]))[: report["images"]]
    assert report["repeated_images"] == len(taken) - len({path.removeprefix("copy-") for path in taken}) < 64


@pytest.mark.parametrize("observe", ["needed", "all"])
def test_a_model_that_gives_other_values_in_every_run_is_refused(tmp_path: Path, observe: str) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("RandomNormalLike", ["c"], ["noise"], name="noisy"),
        helper.make_node("Add", ["c", "noise"], ["y"]),
    ]
    weights = {"w": np.ones((16, 1, 3, 3), np.float32)}
    model = save_net(tmp_path, nodes, weights, "y", ("N", 1, 28, 28))
    with pytest.raises(CalibrationRandom, match=r"Node noisy \(RandomNormalLike\)"):
        request_on(store_dataset(tmp_path, {PATHS[0]: DIGITS[PATHS[0]]}), tmp_path / "out", model, observe=observe)


def test_what_the_model_would_compute_across_images_is_told(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["c", "mean"], ["s"]),
        helper.make_node("Conv", ["s", "v"], ["y"]),
    ]
    weights = {name: np.ones((16, count, 3, 3), np.float32) for name, count in (("w", 1), ("v", 16))}
    model = save_net(tmp_path, nodes, weights, "y", ("N", 1, 28, 28))
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:4]})
    told: list[dict[str, Any]] = []
    report = observe(request_on(dataset, tmp_path / "out", model), told.append)
    assert report["mixed_tensors"] == ["s"]
    assert "the model computes s across the images of a batch; each image was calibrated alone" in [
        event.get("log") for event in told
    ]
    assert job_warnings({"mixed_tensors": ["s"]}, None) == ["images_mixed"]
    assert observe(request_on(dataset, tmp_path / "digits"), ignore)["mixed_tensors"] == []
