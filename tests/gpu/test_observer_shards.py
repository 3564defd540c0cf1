"""A dataset that several GPUs share: a process each, merged to the bytes of one pass. With one GPU they take turns on it."""

import asyncio
from pathlib import Path
from typing import Any

from app.child.parent import ChildCall, run_children
from app.cuda.device import count_devices
from app.observers.tensorrt import GpuObserver
from app.worker.stages.observe import STEP
from app.worker.steps.merge import merge
from app.worker.steps.observer import open_observer
from tests.worker.observing import DIGITS, ignore, request_on, store_dataset

PATHS = list(DIGITS)


def run_at_once(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls = [ChildCall(STEP, request, "observe", 120) for request in requests]
    return asyncio.run(run_children(calls, lambda _number, _event: None, lambda: None))


def test_shards_merge_to_the_bytes_of_one_gpu(tmp_path: Path) -> None:
    shards = 3
    dataset = store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:90]})
    whole = request_on(dataset, tmp_path / "whole") | {"observer": "tensorrt"}
    out = tmp_path / "merged"
    parts = [whole | {"part": [number, shards], "out": f"{out}-{number}"} for number in range(shards)]
    _, *reports = run_at_once([whole, *parts])
    report = merge({"parts": [part["out"] for part in parts], "known": None, "reports": reports, "out": str(out)}, ignore)
    assert (report["images"], report["shards"]) == (90, shards)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_parts_are_dealt_to_the_gpus_in_turn(tmp_path: Path) -> None:
    request = request_on(store_dataset(tmp_path, {path: DIGITS[path] for path in PATHS[:2]}), tmp_path / "out")
    for number in range(5):
        observer = open_observer(request | {"observer": "tensorrt", "part": [number, 5]}, 2, ignore, None)
        assert isinstance(observer, GpuObserver)
        with observer:
            assert observer.device.ordinal == number % count_devices()
