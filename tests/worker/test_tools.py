"""Which observer a job has, and on how many GPUs: decided by its spec and by what a worker has."""

from typing import Any

import pytest

from app import keys
from app.resolved import Tools
from app.spec import JobSpec
from app.worker.stages.observe import default_shards
from app.worker.tools import tools_for_job
from tests.test_keys import job

INSTALLED = Tools(observer="onnxruntime 1.32.0", decoder="pillow 13", judge="onnxruntime 1.32.0", backend=None)
GPU_WORKER: dict[str, Any] = {
    "onnxruntime": {"version": "1.32.0", "compute_capabilities": []},
    "tensorrt": {"version": "10.6.0", "compute_capabilities": ["9.0"]},
}


@pytest.mark.parametrize(
    ("observer", "backend", "expected"),
    [
        ("auto", "onnxruntime", "onnxruntime 1.32.0"),
        ("auto", "tensorrt", "tensorrt 10.6.0 sm90"),
        ("onnxruntime", "tensorrt", "onnxruntime 1.32.0"),
        ("tensorrt", "onnxruntime", "tensorrt 10.6.0 sm90"),
        ("tensorrt", None, "tensorrt 10.6.0 sm90"),
        ("auto", None, "onnxruntime 1.32.0"),
    ],
)
def test_the_observer_follows_the_engine_unless_it_is_named(observer: str, backend: str | None, expected: str) -> None:
    engine = {"backend": backend} if backend else None
    spec = JobSpec.model_validate({"model": "m", "dataset": "d", "calibration": {"observer": observer}, "engine": engine})
    assert tools_for_job(INSTALLED, GPU_WORKER, spec).observer == expected


def test_the_observer_is_in_the_key_however_it_was_chosen() -> None:
    chosen = job({"engine": {"backend": "tensorrt"}})
    named = job({"engine": {"backend": "tensorrt"}, "calibration": {"observer": "tensorrt"}})
    observed = [each.model_copy(update={"tools": tools_for_job(INSTALLED, GPU_WORKER, each.spec)}) for each in (chosen, named)]
    assert keys.observation_key(observed[0]) == keys.observation_key(observed[1])
    on_cpu = chosen.model_copy(update={"tools": INSTALLED})
    assert keys.observation_key(on_cpu) != keys.observation_key(observed[0])


def test_without_a_worker_no_observation_of_another_observer_is_found() -> None:
    spec = JobSpec.model_validate({"model": "m", "dataset": "d", "calibration": {"observer": "tensorrt"}})
    assert tools_for_job(INSTALLED, {}, spec).observer == "tensorrt"


@pytest.mark.parametrize(
    ("calibration", "gpus", "images", "shards"),
    [
        ({"observer": "tensorrt"}, 4, 100_000, 4),
        ({"observer": "tensorrt"}, 4, 600, 2),
        ({"observer": "tensorrt"}, 4, 10, 1),
        ({"observer": "tensorrt"}, 0, 1000, 1),
        ({"observer": "tensorrt", "grid": "tensorrt"}, 4, 100_000, 1),
        ({"observer": "tensorrt", "converge": 0.01}, 4, 100_000, 1),
        ({"observer": "onnxruntime"}, 4, 100_000, 1),
    ],
)
def test_all_gpus_take_part_where_parts_can_be_merged(calibration: dict[str, Any], gpus: int, images: int, shards: int) -> None:
    assert default_shards(job({"calibration": calibration}), gpus, images) == shards
