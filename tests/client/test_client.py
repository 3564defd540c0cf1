"""The client against a real server and worker."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client import Client, ServerProblem
from app.client.events import Event
from app.spec import JobSpec
from tests.running import CALIBRATION, MODEL, RunningServer

SPEC = JobSpec.model_validate(
    {
        "model": "client-digits",
        "dataset": "client-images",
        "calibration": {"method": "minmax", "max_images": 32},
        "engine": {"backend": "onnxruntime"},
        "judge": {"images": 20},
    }
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first forty calibration digits."""
    folder = tmp_path_factory.mktemp("images") / "digits"
    with zipfile.ZipFile(CALIBRATION) as archive:
        archive.extractall(folder, archive.namelist()[:40])
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Client]:
    """A client of a server that nobody has given work before: what is known there changes what is told of a job."""
    server = RunningServer(tmp_path_factory.mktemp("server")).start()
    with Client(server.url) as client:
        client.push_model(MODEL, "client-digits")
        client.push_dataset(digits, "client-images")
        yield client
    server.stop()


def test_uploads_are_found_by_name_and_id(client: Client) -> None:
    model = client.model("client-digits")
    assert model["digest"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert client.model(model["id"]) == model
    assert model in list(client.models())
    assert client.dataset("client-images") in list(client.datasets())


def test_a_folder_and_a_zip_of_it_are_the_same_dataset(client: Client, digits: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for path in digits.iterdir():
            archive.write(path, path.name)
    dataset = client.push_dataset(tmp_path / "d.zip", "client-zip")
    assert dataset["images"] == 40
    assert dataset["digest"] == client.dataset("client-images")["digest"]


def test_images_are_added(client: Client, digits: Path, tmp_path: Path) -> None:
    first, second = sorted(digits.iterdir())[:2]
    for name, path in (("one", first), ("two", second)):
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).write_bytes(path.read_bytes())
    client.push_dataset(tmp_path / "one", "client-growing")
    assert client.add_images(tmp_path / "two", "client-growing")["images"] == 2


def test_a_job_is_followed_to_its_end_and_its_results_come_back(client: Client, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = client.wait(client.submit(SPEC)["id"], seen.append)
    assert job["state"] == "succeeded", job["error"]
    assert [event.body["stage"] for event in seen if event.kind == "stage"][-1] == "judge"
    assert seen[-1].kind == "done"
    assert len({event.id for event in seen}) == len(seen)

    engine = client.engine(job["engine_id"])
    path = client.download_plan(job["engine_id"], tmp_path / "digits.onnx")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == engine["digest"]
    assert client.job_report(job["id"])["agreement"] > 0.8
    assert client.report(job["engine_id"]) == client.job_report(job["id"])
    assert job["id"] in [each["id"] for each in client.jobs("succeeded")]


def test_a_finished_job_is_a_hit_and_waiting_for_it_returns_at_once(client: Client) -> None:
    client.wait(client.submit(SPEC)["id"])
    job = client.submit(SPEC, wait_seconds=1)
    assert job["state"] == "succeeded"
    assert set(job["cache"].values()) == {"hit", None}
    assert client.wait(job["id"])["id"] == job["id"]
    assert client.lookup(SPEC) == {"hit": True, "table_id": job["table_id"], "reason": None}


def test_a_download_that_was_cut_off_goes_on(client: Client, tmp_path: Path) -> None:
    job = client.wait(client.submit(SPEC)["id"])
    whole = client.download_plan(job["engine_id"], tmp_path / "whole").read_bytes()
    part = tmp_path / f".p.{hashlib.sha256(whole).hexdigest()[:16]}.part"
    part.write_bytes(whole[:1000])
    told: list[tuple[int, int]] = []
    client.download_plan(job["engine_id"], tmp_path / "p", lambda *progress: told.append(progress))
    assert told[0] == (1000, len(whole))
    assert (tmp_path / "p").read_bytes() == whole


def test_tables_are_shown_exported_compared_and_imported(client: Client, tmp_path: Path) -> None:
    table_id = client.wait(client.submit(SPEC)["id"])["table_id"]
    table = client.table(table_id)
    assert table["method"] == "minmax"
    assert all(scale > 0 for scale in table["scales"].values())

    cache = client.export(table_id, {"format": "trt", "trt_version": "8.6.1", "algorithm": "MinMaxCalibration"})
    assert cache.startswith(b"TRT-8601-MinMaxCalibration\n")
    (tmp_path / "digits.cache").write_bytes(cache)
    imported = client.import_table(tmp_path / "digits.cache", {"model": "client-digits"})
    assert imported["matched"] == len(table["scales"])
    assert client.diff(table_id, imported["id"])["max_drift"] < 1e-6
    assert {each["id"] for each in client.tables("client-digits")} >= {table_id, imported["id"]}


def test_the_qdq_model_of_a_table_comes_back(client: Client) -> None:
    table_id = client.wait(client.submit(SPEC)["id"])["table_id"]
    assert b"QuantizeLinear" in client.qdq(table_id, {"float_type": "fp32"})


def test_cancel_is_final(client: Client) -> None:
    spec = SPEC.model_dump(mode="json", exclude_unset=True) | {"preprocess": {"mean": [0.25]}}
    job = client.submit(spec)
    client.cancel(job["id"])
    ended = client.wait(job["id"])
    assert ended["state"] == "cancelled"
    assert client.cancel(job["id"])["state"] == "cancelled"


def test_problems_carry_code_status_and_advice(client: Client) -> None:
    with pytest.raises(ServerProblem) as caught:
        client.job("job_" + "0" * 24)
    assert (caught.value.code, caught.value.status) == ("not-found", 404)
    with pytest.raises(ServerProblem) as caught:
        client.submit({"model": "client-digits", "dataset": "client-images", "nonsense": 1})
    assert caught.value.status == 422
    assert "nonsense" in caught.value.detail


def test_what_is_no_model_is_refused_at_once(client: Client) -> None:
    with pytest.raises(ServerProblem) as caught:
        client.push_model(Path(__file__), "client-nonsense")
    assert caught.value.status == 422
    assert caught.value.code.startswith("model-")


def test_workers_and_limits_are_told(client: Client) -> None:
    assert any("onnxruntime" in worker["backends"] for worker in client.workers())
    assert client.limits()["max_upload_bytes"] > 0
    assert client.ready()["status"] == "ready"
