"""How observations are spared over HTTP: what was added to a dataset is run alone, all else from scratch."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper
from PIL import Image

from tests.api.test_jobs import run, succeeded
from tests.api.test_uploads import assert_problem, members, tar_of, zip_of
from tests.observers.nets import save_mixing_net, save_net
from tests.running import CALIBRATION, RunningServer

FILES = dict(sorted(members(CALIBRATION).items()))
PATHS = list(FILES)


def spec_on(dataset: str, **calibration: Any) -> dict[str, Any]:
    return {"dataset": dataset, "engine": None, "calibration": {"method": "entropy"} | calibration}


def log_of(http: httpx.Client, job: dict[str, Any]) -> list[str]:
    lines = http.get(f"/v1/jobs/{job['id']}/events").text.splitlines()
    bodies = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return [body["line"] for body in bodies if "line" in body]


def progress_of(http: httpx.Client, job: dict[str, Any]) -> list[tuple[int, int]]:
    lines = http.get(f"/v1/jobs/{job['id']}/events").text.splitlines()
    bodies = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return [(body["done"], body["total"]) for body in bodies if body.get("stage") == "observe" and "done" in body]


def digest_of(http: httpx.Client, job: dict[str, Any]) -> str:
    return http.get(f"/v1/tables/{job['table_id']}").json()["digest"]


def grow(http: httpx.Client, name: str, offset: int) -> None:
    """Store a dataset of 40 digits that was observed and has 2 more since."""
    paths = PATHS[offset : offset + 42]
    assert http.put(f"/v1/datasets/{name}", content=zip_of({path: FILES[path] for path in paths[:40]})).status_code < 300
    succeeded(run(http, spec_on(name)))
    assert http.patch(f"/v1/datasets/{name}", content=tar_of({path: FILES[path] for path in paths[40:]})).status_code == 200


def test_added_images_alone_are_run(http: httpx.Client) -> None:
    grow(http, "grown", 300)
    job = succeeded(run(http, spec_on("grown")))
    assert job["cache"]["reason"].endswith("; merging 40 known images with 2 added")
    assert "merging 40 known images with 2 added" in log_of(http, job)
    scratch = succeeded(run(http, spec_on("grown", converge=1e-9)))  # another key, the same images, in another order
    assert scratch["cache"]["observation"] == "miss"
    assert "merging" not in " ".join(log_of(http, scratch))
    assert digest_of(http, job) == digest_of(http, scratch)


def test_auto_chooses_by_the_error_where_rows_are_no_images(http: httpx.Client, tmp_path: Path) -> None:
    weights = {
        "w": np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32),
        "boxes": np.array([-1, 4], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[3, 3], strides=[7, 7]),
        helper.make_node("Transpose", ["y"], ["t"], name="turn", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t", "boxes"], ["z"], name="flatten"),
    ]
    path = save_net(tmp_path, nodes, weights, "z", ("N", 1, 28, 28))
    assert http.put("/v1/models/boxes", content=path.read_bytes()).status_code == 201
    job = succeeded(run(http, {"model": "boxes", "calibration": {"method": "auto"}, "judge": {"images": 20}}))
    report = http.get(job["report_url"]).json()
    assert (report["classification_output"], report["agreement"]) == (None, None)
    assert report["mean_error"] < 0.1
    assert set(report["candidates"]) == {"entropy", "minmax", "percentile", "mse"}


def png_of(value: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (28, 28), value).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("shards", [1, 2])
def test_copies_and_images_of_one_colour_are_told(http: httpx.Client, shards: int) -> None:
    name, digits = f"odd-{shards}", {path: FILES[path] for path in PATHS[60 * shards :][:40]}
    copies = {f"copies/{number}.png": content for number, content in enumerate(list(digits.values())[:8])}
    odd = digits | copies | {"black.png": png_of(0)}
    assert http.put(f"/v1/datasets/{name}", content=zip_of(odd)).status_code == 201
    job = succeeded(run(http, spec_on(name, shards=shards)))
    assert {"images_repeated", "images_constant"} <= set(job["warnings"])
    table = http.get(f"/v1/tables/{job['table_id']}").json()
    assert (table["images"], table["skipped"]) == (49, [])
    assert (table["repeated_images"], table["constant_images"]) == (8, ["black.png"])
    assert log_of(http, job).count("images that are copies of others, and so count more than once: 8") == 1
    assert log_of(http, job).count("images of one colour alone: black.png") == 1
    added = tar_of({"more/grey.png": png_of(90), "more/digit.png": FILES[PATHS[-1]]})
    assert http.patch(f"/v1/datasets/{name}", content=added).status_code == 200
    grown = succeeded(run(http, spec_on(name, shards=shards)))
    table = http.get(f"/v1/tables/{grown['table_id']}").json()
    assert grown["cache"]["reason"].endswith("; merging 49 known images with 2 added")
    assert (table["repeated_images"], table["constant_images"]) == (8, ["black.png", "more/grey.png"])


def test_few_copies_are_counted_without_a_warning(http: httpx.Client) -> None:
    files = {path: FILES[path] for path in PATHS[:40]}
    assert http.put("/v1/datasets/one-copy", content=zip_of(files | {"copy.png": FILES[PATHS[0]]})).status_code == 201
    job = succeeded(run(http, spec_on("one-copy")))
    assert job["warnings"] == []
    table = http.get(f"/v1/tables/{job['table_id']}").json()
    assert (table["repeated_images"], table["constant_images"]) == (1, [])


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_removed_or_replaced_image_is_observed_from_scratch(http: httpx.Client, change: str) -> None:
    name = f"grown-{change}"
    grow(http, name, 100 if change == "removed" else 250)
    paths = PATHS[100:142] if change == "removed" else PATHS[250:292]
    files = {path: FILES[path] for path in paths}
    if change == "removed":
        del files[paths[7]]
    else:
        files[paths[7]] = FILES[PATHS[400]]
    http.put(f"/v1/datasets/{name}", content=zip_of(files))
    job = succeeded(run(http, spec_on(name)))
    assert "merging" not in job["cache"]["reason"] + " ".join(log_of(http, job))


def test_what_is_prepared_for_one_grid_is_not_used_on_the_other(http: httpx.Client, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["m", "w2"], ["y"]),
    ]
    random = np.random.default_rng(1)
    weights = {
        name: random.normal(size=shape).astype(np.float32) for name, shape in (("w", (8, 1, 3, 3)), ("w2", (8, 8, 3, 3)))
    }
    path = save_net(tmp_path, nodes, weights, "y", (1, 1, 28, 28))
    assert http.put("/v1/models/pooled", content=path.read_bytes()).status_code == 201
    http.put("/v1/datasets/pooled", content=zip_of({path: FILES[path] for path in PATHS[:6]}))
    is_same = {}
    for grid in ("mergeable", "tensorrt"):
        calibration = {"method": "percentile", "observe": "all", "grid": grid}
        job = succeeded(run(http, spec_on("pooled", **calibration) | {"model": "pooled"}))
        amax = http.get(f"/v1/tables/{job['table_id']}/export", params={"format": "json"}).json()["amax"]
        is_same[grid] = amax["m"] == amax["c"]
    assert is_same == {"mergeable": False, "tensorrt": True}


def test_labels_alone_run_nothing(http: httpx.Client) -> None:
    grow(http, "relabelled", 150)
    first = succeeded(run(http, spec_on("relabelled")))
    files = {path: FILES[path] for path in PATHS[150:192]} | {"labels.txt": b"one\ntwo\n"}
    assert http.put("/v1/datasets/relabelled", content=zip_of(files)).status_code == 201
    job = succeeded(run(http, spec_on("relabelled")))
    assert digest_of(http, job) == digest_of(http, first)
    assert "merging 42 known images with 0 added" in log_of(http, job)


@pytest.mark.parametrize("choice", [{"max_images": 36}, {"grid": "tensorrt"}])
def test_what_depends_on_the_whole_set_is_not_merged(http: httpx.Client, choice: dict[str, Any]) -> None:
    name = f"whole-{'-'.join(choice).replace('_', '-')}"
    paths = PATHS[200:242]
    http.put(f"/v1/datasets/{name}", content=zip_of({path: FILES[path] for path in paths[:40]}))
    succeeded(run(http, spec_on(name, **choice)))
    http.patch(f"/v1/datasets/{name}", content=tar_of({path: FILES[path] for path in paths[40:]}))
    job = succeeded(run(http, spec_on(name, **choice)))
    assert "merging" not in job["cache"]["reason"] + " ".join(log_of(http, job))


def test_what_is_computed_of_images_together_is_not_merged(http: httpx.Client, tmp_path: Path) -> None:
    path = save_mixing_net(tmp_path, (2, 1, 28, 28))
    assert http.put("/v1/models/mixing", content=path.read_bytes()).status_code == 201
    http.put("/v1/datasets/mixed", content=zip_of({path: FILES[path] for path in PATHS[:6]}))
    spec = spec_on("mixed") | {"model": "mixing"}
    succeeded(run(http, spec))
    http.patch("/v1/datasets/mixed", content=tar_of({path: FILES[path] for path in PATHS[6:10]}))
    job = succeeded(run(http, spec))
    assert "merging" not in job["cache"]["reason"] + " ".join(log_of(http, job))
    scratch = succeeded(run(http, spec_on("mixed", on_bad_image="skip", max_bad_fraction=0.1) | {"model": "mixing"}))
    assert scratch["cache"]["observation"] == "miss"
    assert digest_of(http, job) == digest_of(http, scratch)
    http.patch("/v1/datasets/mixed", content=tar_of({path: FILES[path] for path in PATHS[10:12]}))
    sharded = run(http, spec_on("mixed", shards=2) | {"model": "mixing"})
    assert sharded["error"]["code"] == "calibration_failed"
    assert "set calibration.shards to 1" in sharded["error"]["detail"]


def test_a_dynamic_batch_that_is_computed_across_is_warned_of(http: httpx.Client, tmp_path: Path) -> None:
    path = save_mixing_net(tmp_path, ("N", 1, 28, 28))
    assert http.put("/v1/models/crossing", content=path.read_bytes()).status_code == 201
    http.put("/v1/datasets/crossed", content=zip_of({path: FILES[path] for path in PATHS[:6]}))
    job = succeeded(run(http, spec_on("crossed") | {"model": "crossing"}))
    assert "images_mixed" in job["warnings"]
    assert http.get(f"/v1/tables/{job['table_id']}").json()["mixed_tensors"] == ["s"]


def test_shards_are_one_observation(http: httpx.Client) -> None:
    http.put("/v1/datasets/sharded", content=zip_of({path: FILES[path] for path in PATHS[350:400]}))
    sharded = succeeded(run(http, spec_on("sharded", shards=3)))
    assert "merged 3 shards of 50 images" in log_of(http, sharded)
    assert progress_of(http, sharded)[-1] == (50, 50)
    again = succeeded(run(http, spec_on("sharded")))
    assert (again["attempt"], again["table_id"]) == (0, sharded["table_id"])
    scratch = succeeded(run(http, spec_on("sharded", converge=1e-9)))
    assert scratch["cache"]["observation"] == "miss"
    assert digest_of(http, scratch) == digest_of(http, sharded)


def test_a_bad_image_in_one_shard_ends_the_others(http: httpx.Client) -> None:
    files = {path: FILES[path] for path in PATHS[350:400]}
    files[PATHS[390]] = files[PATHS[390]][:80]
    http.put("/v1/datasets/sharded-bad", content=zip_of(files))
    job = run(http, spec_on("sharded-bad", shards=3))
    assert (job["state"], job["error"]["code"]) == ("failed", "image_corrupt")
    assert PATHS[390] in job["error"]["detail"]


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        ({"shards": 2, "grid": "tensorrt"}, "first batch decides"),
        ({"converge": 0.1, "grid": "tensorrt"}, "sorted order"),
        ({"converge": 0.1, "shards": 2}, "leave one of the two out"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(http: httpx.Client, calibration: dict[str, Any], reason: str) -> None:
    response = http.post("/v1/jobs", json={"model": "digits"} | spec_on("digits-calibration", **calibration))
    assert reason in str(assert_problem(response, 422, "unsupported-option")["detail"])


def test_converge_is_told_on_table_and_report(http: httpx.Client) -> None:
    http.put("/v1/datasets/converging", content=zip_of({path: FILES[path] for path in PATHS[400:500]}))
    job = succeeded(run(http, {"dataset": "converging", "calibration": {"method": "minmax", "converge": 0.9}}))
    table = http.get(f"/v1/tables/{job['table_id']}").json()
    assert (table["images"], table["converge"]["images"], table["converge"]["converged"]) == (32, 32, True)
    report = http.get(job["report_url"]).json()
    assert report["converge"] == table["converge"]
    assert (report["judged_on"], report["images"]) == ("held out", 68)
    assert any("32 of 100 images sufficed" in line for line in log_of(http, job))
    restless = succeeded(run(http, spec_on("converging", converge=1e-9)))
    assert "not_converged" in restless["warnings"]


def test_reasons_say_an_early_stop_in_words(http: httpx.Client) -> None:
    http.put("/v1/datasets/stopping", content=zip_of({path: FILES[path] for path in PATHS[300:340]}))
    apart = {"preprocess": {"scale": 0.0031}}  # no other test has observed so
    succeeded(run(http, spec_on("stopping", method="minmax", converge=0.9) | apart))
    asked = {"converge": 0.8, "method": "percentile", "percentile": 99.9}
    reasons = [
        http.post("/v1/tables/lookup", json={"model": "digits"} | spec_on("stopping", **calibration) | apart).json()["reason"]
        for calibration in (asked, {"method": "minmax"})
    ]
    assert reasons == [
        "converge changed: 0.9 for minmax -> 0.8 for percentile 99.9",
        "converge changed: 0.9 for minmax -> none",
    ]


@pytest.mark.parametrize(("fraction", "is_taken"), [(1e-9, True), (0.9, False)])
def test_an_early_stop_that_needed_all_images_spares_their_observation(
    http: httpx.Client, fraction: float, is_taken: bool
) -> None:
    name = f"needed-{is_taken}".lower()
    paths = PATHS[340:383] if is_taken else PATHS[383:426]
    http.put(f"/v1/datasets/{name}", content=zip_of({path: FILES[path] for path in paths[:40]}))
    apart = {"preprocess": {"scale": 0.0032 if is_taken else 0.0033}}  # no other test has observed so
    stopping = succeeded(run(http, spec_on(name, method="minmax", converge=fraction) | apart))
    whole = succeeded(run(http, spec_on(name, method="minmax") | apart))
    assert ("merging 40 known images with 0 added" in log_of(http, whole)) == is_taken
    assert any("observing" in line for line in log_of(http, whole)) != is_taken
    assert (digest_of(http, whole) == digest_of(http, stopping)) == is_taken
    table = http.get(f"/v1/tables/{whole['table_id']}").json()
    assert (table["images"], table["converge"], table["provenance"]["observation"]["converge"]) == (40, None, None)
    http.patch(f"/v1/datasets/{name}", content=tar_of({path: FILES[path] for path in paths[40:]}))
    more = succeeded(run(http, spec_on(name) | apart))
    assert "merging 40 known images with 3 added" in log_of(http, more)


def test_how_far_thresholds_moved_is_told_of_every_calibration(http: httpx.Client) -> None:
    name = "drifting"
    http.put(f"/v1/datasets/{name}", content=zip_of({path: FILES[path] for path in PATHS[100:164]}))
    job = succeeded(run(http, {"dataset": name, "calibration": {"method": "minmax"}}))
    drift = http.get(f"/v1/tables/{job['table_id']}").json()["drift"]
    assert http.get(job["report_url"]).json()["drift"] == drift
    last = drift["points"][-2:]
    assert {(point["images"], point["method"]) for point in last} == {(64, "minmax"), (64, "percentile")}
    http.patch(f"/v1/datasets/{name}", content=tar_of({path: FILES[path] for path in PATHS[164:170]}))
    more = succeeded(run(http, spec_on(name)))
    grown = http.get(f"/v1/tables/{more['table_id']}").json()["drift"]["points"]
    assert {(point["since"], point["images"]) for point in grown[-2:]} == {(64, 70)}
    assert grown[:-2] == [point for point in drift["points"] if point["images"] > 1.5 * point["since"]]
    http.patch(f"/v1/datasets/{name}", content=tar_of({path: FILES[path] for path in PATHS[170:175]}))
    last = succeeded(run(http, spec_on(name)))
    again = http.get(f"/v1/tables/{last['table_id']}").json()["drift"]["points"]
    assert again[:-2] == grown[:-2]
    assert {(point["since"], point["images"]) for point in again[-2:]} == {(70, 75)}


def test_a_model_is_prepared_once_and_again_where_that_was_damaged(http: httpx.Client, server: RunningServer) -> None:
    told = []
    for number in range(3):
        files = {path: FILES[path] for path in PATHS[200 + 10 * number : 210 + 10 * number]}
        http.put(f"/v1/datasets/prepared-{number}", content=zip_of(files))
        if number == 2:
            for answer in (server.data / "prepared").glob("*/answer.json"):
                answer.unlink()
        spec = spec_on(f"prepared-{number}", method="minmax") | {"preprocess": {"scale": 0.003}}
        job = succeeded(run(http, spec))
        told.append([line for line in log_of(http, job) if line.startswith("prepared")])
    assert [len(lines) for lines in told] == [1, 0, 1]
    assert not list((server.data / "prepared").glob("new-*"))


def test_auto_tells_of_the_images_what_its_methods_tell(http: httpx.Client) -> None:
    odd = {path: FILES[path] for path in PATHS[200:300]} | {"copy.png": FILES[PATHS[200]], "bad.png": b"\x89PNG\r\n\x1a\nx"}
    assert http.put("/v1/datasets/told", content=zip_of(odd)).status_code == 201
    chosen = {"on_bad_image": "skip", "max_bad_fraction": 0.5}
    auto = succeeded(run(http, {"dataset": "told", "calibration": {"method": "auto"} | chosen}))
    alone = succeeded(run(http, {"dataset": "told", "calibration": {"method": "minmax"} | chosen}))
    tables = [http.get(f"/v1/tables/{job['table_id']}").json() for job in (auto, alone)]
    for fact in ("images", "skipped", "drift", "repeated_images", "constant_images"):
        assert tables[0][fact] == tables[1][fact] is not None, fact
    assert {"images_skipped"} <= set(auto["warnings"])


def test_auto_is_judged_on_images_that_converge_left_out(http: httpx.Client) -> None:
    assert http.put("/v1/datasets/early", content=zip_of({path: FILES[path] for path in PATHS[:200]})).status_code == 201
    job = succeeded(run(http, {"dataset": "early", "calibration": {"method": "auto", "converge": 0.9}}))
    report = http.get(job["report_url"]).json()
    assert (report["judged_on"], report["converge"]["images"], report["converge"]["converged"]) == ("held out", 32, True)
    assert "judged_on_calibration" not in job["warnings"]
    assert (
        "not_converged"
        in succeeded(run(http, {"dataset": "early", "calibration": {"method": "auto", "converge": 1e-9}}))["warnings"]
    )
