"""A worker whose GPU cannot be asked serves what needs none, and says why; it takes no queue that it cannot serve."""

from pathlib import Path

import pytest

from app.errors import WorkerProblem
from app.settings import Settings
from app.work import choose_queues, find_backends
from tests.worker.fake_cuda import write_packages


@pytest.mark.parametrize(("fault", "words"), [("full", "out of memory"), ("lost", "unknown error"), ("segfault", "SIGSEGV")])
def test_what_needs_no_gpu_is_served_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, words: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(write_packages(tmp_path / "site", fault)))
    settings = Settings(data=tmp_path)
    settings.temporary_folder.mkdir(parents=True)
    found = find_backends(settings)
    assert "onnxruntime" in found["backends"]
    assert "tensorrt" not in found["backends"]
    assert "cpu" in found["queues"]
    told = capsys.readouterr()
    assert words in told.out + told.err


@pytest.mark.parametrize(
    ("library", "queues"), [("__version__ = '1.6.0'", ["cpu", "rtx"]), ("import ctypes; ctypes.string_at(0)", ["cpu"])]
)
def test_a_crash_of_tensorrt_takes_nothing_along_that_does_not_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, queues: list[str]
) -> None:
    packages = write_packages(tmp_path / "site", "segfault")
    (packages / "tensorrt_rtx.py").write_text(library, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    settings = Settings(data=tmp_path)
    settings.temporary_folder.mkdir(parents=True)
    assert find_backends(settings)["queues"] == queues


def test_queues_are_those_that_can_be_served(tmp_path: Path) -> None:
    assert choose_queues(Settings(data=tmp_path), ["cpu", "rtx"]) == ["cpu", "rtx"]
    assert choose_queues(Settings(data=tmp_path, queues=("cpu",)), ["cpu", "rtx"]) == ["cpu"]
    with pytest.raises(WorkerProblem, match=r"trt10\.6-sm90.*cpu, rtx"):
        choose_queues(Settings(data=tmp_path, queues=("cpu", "trt10.6-sm90")), ["cpu", "rtx"])
