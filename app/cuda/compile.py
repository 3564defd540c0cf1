"""CUDA C++ to machine code for one kind of GPU, by NVRTC: no compiler has to be installed where jobs run.

NVRTC comes with CUDA, or as a wheel (nvidia-cuda-nvrtc-cu12 for compute capability 5.0 to 12.1). What it made is kept in
the user's cache folder, by the digest of source, options and version.
"""

import ctypes
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from app.errors import WorkerProblem

#: Wheels that hold the library, and its name in there.
_WHEELS = (("nvidia.cuda_nvrtc", "lib/libnvrtc.so.12"), ("nvidia.cu13", "lib/libnvrtc.so.13"))
_SYSTEM = (
    "libnvrtc.so.12", "libnvrtc.so.13", "/usr/local/cuda/lib64/libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so.13",
)  # fmt: skip
_ADVICE = "pip install nvidia-cuda-nvrtc-cu12"


def compile_cubin(source: str, compute_capability: str, defines: Mapping[str, int]) -> bytes:
    """Return machine code of source for GPUs of a compute capability ("9.0"), from the cache where it is there.

    Raises WorkerProblem with the compiler's words, or where there is no compiler.
    """
    library = _open_nvrtc()
    options = (
        f"--gpu-architecture=sm_{compute_capability.replace('.', '')}",
        "--std=c++17",
        *(f"-D{name}={value}" for name, value in sorted(defines.items())),
    )
    stored = _cache_path(_digest(source, (*options, _version(library))))
    if stored is not None and stored.is_file():
        return stored.read_bytes()
    cubin = _compile(library, source, options)
    if stored is not None:
        _store(stored, cubin)
    return cubin


def _open_nvrtc() -> ctypes.CDLL:
    library = _find_nvrtc()
    if library is None:
        raise WorkerProblem(reason=f"NVRTC, which compiles the counting kernels, is not installed here; {_ADVICE}")
    return library


@cache
def _find_nvrtc() -> ctypes.CDLL | None:
    for path in (*_wheel_paths(), *_SYSTEM):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    return None


def _wheel_paths() -> Iterator[Path]:
    for package, place in _WHEELS:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # there is no package `nvidia` at all
            continue
        if spec is not None:
            yield from (Path(folder, place) for folder in spec.submodule_search_locations or ())


def _compile(library: ctypes.CDLL, source: str, options: Sequence[str]) -> bytes:
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = library.nvrtcCompileProgram(program, len(options), words)
        if status:
            log = _read(library, program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
            name = library.nvrtcGetErrorString(status).decode()
            raise WorkerProblem(reason=f"NVRTC {_version(library)} {' '.join(options)}: {name}: {log or 'no words'}; {_ADVICE}")
        return _read(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, content))
    return content.raw


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise WorkerProblem(reason=f"NVRTC failed: {library.nvrtcGetErrorString(status).decode()}")


def _version(library: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def _digest(source: str, options: Sequence[str]) -> str:
    return hashlib.sha256("\0".join((source, *options)).encode()).hexdigest()


def _cache_path(digest: str) -> Path | None:
    try:
        return Path.home() / ".cache" / "enginesmith" / "kernels" / f"{digest}.cubin"
    except RuntimeError:  # a user without a home
        return None


def _store(path: Path, content: bytes) -> None:
    # Without a writable home every process compiles anew, which takes about half a second.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except OSError:
        return
