"""The compiler of the counting kernels; needs no GPU, but NVRTC."""

import ctypes
from pathlib import Path

import pytest

from app.cuda import compile as nvrtc
from app.cuda.compile import compile_cubin
from app.errors import WorkerProblem
from app.observers.gpu_regions import SIGNATURES, read_kernels

ELF = b"\x7fELF"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, for the cache is there; skips where NVRTC is not installed."""
    if nvrtc._find_nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("compute_capability", ["7.5", "8.6", "9.0", "12.0"])
def test_all_kernels_are_compiled(home: Path, compute_capability: str) -> None:
    cubin = compile_cubin(read_kernels(), compute_capability, {"ITEM": 32768})
    assert cubin.startswith(ELF)
    assert all(name.encode() in cubin for name in SIGNATURES)


def test_what_was_compiled_is_kept(home: Path) -> None:
    cubin = compile_cubin(read_kernels(), "8.6", {"ITEM": 4096})
    (kept,) = home.rglob("*.cubin")
    assert kept.read_bytes() == cubin
    kept.write_bytes(b"from the cache")
    assert compile_cubin(read_kernels(), "8.6", {"ITEM": 4096}) == b"from the cache"
    assert compile_cubin(read_kernels(), "8.6", {"ITEM": 8192}).startswith(ELF)


def test_errors_are_the_compilers_words(home: Path) -> None:
    with pytest.raises(WorkerProblem, match="no storage class"):
        compile_cubin("nonsense", "8.6", {})


def test_without_a_compiler_the_problem_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> ctypes.CDLL:
        raise OSError

    nvrtc._find_nvrtc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    try:
        with pytest.raises(WorkerProblem, match="pip install nvidia-cuda-nvrtc-cu12"):
            compile_cubin(read_kernels(), "8.6", {})
    finally:
        nvrtc._find_nvrtc.cache_clear()
