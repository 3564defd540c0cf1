"""Call a compiled kernel without numba: its machine code is kept on disk and put into memory as it is.

numba and LLVM cost 100 MB of memory and half a second in every process that imports them, more than the counting of a
small data set; the code of a kernel is 6 KB. It is compiled once for each CPU, version and source, in a process of its
own. Where the code cannot stand alone (another CPU architecture) numba compiles it in this process, with the same result;
that it cannot is kept beside the code, so that it is tried once for a machine.
"""

import ctypes
import fcntl
import hashlib
import importlib
import json
import logging
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from app.native.elf import Linked

log = logging.getLogger(__name__)

#: Called with addresses and whole numbers; returns the kernel's number.
Kernel = Callable[..., int]

_PROT_READ, _PROT_EXEC = 1, 4
_LOADING = threading.Lock()
_DIGEST_BYTES, _LENGTH_BYTES = 32, 8
#: What kernels may call: functions of the C library's mathematics, which numba's own code calls as well.
OUTSIDE = ("log",)
#: The builder's exit code where the code needs more than the linker does, which trying again would not change.
CANNOT_STAND_ALONE = 3


def load_kernel(module: str, name: str, arguments: int) -> Kernel:
    """Return the kernel; the first of several threads that ask loads it. See `find_or_compile`."""
    with _LOADING:
        return find_or_compile(module, name, arguments)


@cache
def find_or_compile(module: str, name: str, arguments: int) -> Kernel:
    """Return the kernel `name` of a module that names its numba signature in SIGNATURES, all arguments 64 bits wide."""
    if (body := _kept(module, name)) is not None:
        return _from_code(body, arguments)
    file = _file(module, name)
    with tempfile.TemporaryDirectory(prefix="enginesmith-kernel-") as private:
        folder = next(filter(_is_writable, _folders()), Path(private))
        if folder == Path(private):
            log.warning("no folder to keep the kernel %s in, it is compiled in every process", name)
        if (body := _build(module, name, folder / file)) is None:
            return jit_kernel(module, name, arguments)
        return _from_code(body, arguments)


def is_kept(module: str, name: str) -> bool:
    """Whether the kernel's code is on disk, so that loading it takes no compiler."""
    return _kept(module, name) is not None


def jit_kernel(module: str, name: str, arguments: int) -> Kernel:
    """Return the kernel compiled by numba in this process."""
    from app.native.build import compile_kernel

    kernels = importlib.import_module(module)
    compiled = compile_kernel(getattr(kernels, name), kernels.SIGNATURES[name])
    overload = next(iter(compiled.overloads.values()))
    address = overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name)
    return _Kernel(address, arguments, compiled)


def save_code(path: Path, linked: Linked) -> None:
    """Write a kernel's code, all or nothing, for whoever runs this installation."""
    facts = json.dumps({"entry": linked.entry, "outside": linked.outside}).encode()
    body = len(facts).to_bytes(_LENGTH_BYTES, "little") + facts + linked.code
    part = path.with_name(f"{path.name}-{os.getpid()}")
    try:
        part.write_bytes(hashlib.sha256(body).digest() + body)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _file(module: str, name: str) -> str:
    return f"{name}-{_key(module)}.code"


def _kept(module: str, name: str) -> bytes | None:
    return next((body for folder in _folders() if (body := _read(folder / _file(module, name))) is not None), None)


def _build(module: str, name: str, path: Path) -> bytes | None:
    """Return the kernel's code, built unless another process did; None where it cannot be, and why is said."""
    refusal = path.with_suffix(".refused")
    with _alone(path.with_suffix(".lock")):
        if (body := _read(path)) is not None:
            return body
        reason = _reason(refusal) or _compile(module, name, path)
    body = None if reason else _read(path)
    if body is None:
        reason = reason or "what was written cannot be read"
        log.warning("numba compiles the kernel %s in every process: its code cannot be kept (%s)", name, reason)
    return body


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file where there can be one: NFS may have no locks, and the file be another user's.

    Without it a kernel is built twice at worst: what is written appears all at once.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            lock = stack.enter_context(path.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(module: str, name: str, path: Path) -> str | None:
    """Write the kernel's code to path; return why it could not be, kept beside it where another try would end the same."""
    command = [sys.executable, "-P", "-m", "app.native.build", module, name, str(path)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if not done.returncode:
        return None
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode == CANNOT_STAND_ALONE:
        with suppress(OSError):  # the disk is full: it is tried again
            path.with_suffix(".refused").write_text(f"{reason}\n", encoding="utf-8")
    return reason


def _reason(refusal: Path) -> str | None:
    """Return why the kernel cannot be built here, None where that is not known. Its name holds versions, source and CPU."""
    try:
        reason = refusal.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return f"{reason}; {refusal} says so, remove it to have it tried again" if reason else None


def _read(path: Path) -> bytes | None:
    """Return entry and code, None where there is none, it may not be read or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[_DIGEST_BYTES:]
    return body if body and hashlib.sha256(body).digest() == content[:_DIGEST_BYTES] else None


def _folders() -> Iterator[Path]:
    yield Path(__file__).parent / "__pycache__"
    yield Path(os.path.expanduser("~")) / ".cache" / "enginesmith"  # noqa: PTH111 - Path.home() fails without a home


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@cache
def _key(module: str) -> str:
    own = ("app.observers.layout", *(f"app.native.{name}" for name in ("build", "compress", "elf", "kernel")))
    sources = [_source(name) for name in (module, *own)]
    versions = [_version(package) for package in ("numba", "llvmlite")]
    return hashlib.sha256("\n".join([*sources, *versions, describe_cpu()]).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    # The file that both packages write theirs into takes a tenth of the time that their metadata do.
    file = _origin(package).with_name("_version.py")
    return file.read_text(encoding="utf-8") if file.exists() else metadata.version(package)


def _source(module: str) -> str:
    return _origin(module).read_text(encoding="utf-8")


def _origin(module: str) -> Path:
    spec = util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def describe_cpu() -> str:
    """Return what code and memory layouts for this CPU depend on: architecture, model and instruction sets."""
    facts = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    told = [line for line in facts if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *sorted(set(told))])


def _from_code(body: bytes, arguments: int) -> Kernel:
    start = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    facts, code = json.loads(body[_LENGTH_BYTES:start]), body[start:]
    memory = mmap.mmap(-1, len(code))
    memory.write(code)
    for name, place in facts["outside"].items():
        memory[place : place + 8] = _address_of(name).to_bytes(8, "little")
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # Never writable and executable at the same time.
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address), len(code), _PROT_READ | _PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    return _Kernel(address + facts["entry"], arguments, memory)


def _address_of(name: str) -> int:
    """Return where a function of OUTSIDE is: in the interpreter, which is linked with libm, or in libm itself."""
    for library in (None, "libm.so.6"):
        with suppress(AttributeError, OSError):
            if address := ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value:
                return address
    raise OSError(f"the C library has no {name}")


class _Kernel:
    """A function of numba's calling convention: `int32 f(int64* result, void** error, ...)`."""

    def __init__(self, address: int, arguments: int, keeps: Any) -> None:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * arguments)
        self._function, self._keeps = prototype(address), keeps

    def __call__(self, *arguments: int) -> int:
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        if self._function(ctypes.addressof(result), ctypes.addressof(error), *arguments):
            raise RuntimeError("the kernel raised an exception, which none of ours does")
        return result.value
