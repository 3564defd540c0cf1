"""Machine code that stands alone: the same as numba's, kept, checked, and refused where it needs more."""

import functools
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage] - public by its documentation
    types,
)

from app.native import kernel
from app.native.build import build_code
from app.native.elf import LinkError, link_object
from app.observers.counting import Counter, Located, State
from app.observers.layout import COLUMNS, NO_EXTREMES, OK
from app.quant.entropy import find_entropy_bins
from app.quant.histogram import mergeable_from_values
from app.quant.mse import mse_amax

ARGUMENTS = 12
MODULE = "app.observers.kernels"


def count(values: np.ndarray, function: kernel.Kernel, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr("app.observers.counting.load", lambda _name: function)
    counts = np.zeros((1, 2, COLUMNS), np.uint32)
    state = State(np.array([NO_EXTREMES], np.int64), counts, np.full((1, 2), -126, np.int32))
    clamps = np.array([[-np.inf, np.inf]], np.float32)
    assert Counter().count_mergeable(Located([values], [values.size], clamps), state) == OK
    return counts


def test_the_code_alone_counts_as_numbas_does(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=100_003).astype(np.float32)
    values[::3] = 0
    alone = count(values, kernel.load_kernel(MODULE, "count_mergeable", ARGUMENTS), monkeypatch)
    jitted = count(values, kernel.jit_kernel(MODULE, "count_mergeable", ARGUMENTS), monkeypatch)
    assert np.array_equal(alone, jitted)
    expected = mergeable_from_values(values)
    assert np.array_equal(alone[0].sum(axis=0)[1:8192], expected.positive.counts[1:])


def test_code_is_kept_and_made_anew_where_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_folders", lambda: [tmp_path])
    load = kernel.find_or_compile.__wrapped__
    load(MODULE, "measure_extremes", ARGUMENTS)
    (kept,) = tmp_path.glob("*.code")
    good, made_at = kept.read_bytes(), kept.stat().st_mtime_ns
    load(MODULE, "measure_extremes", ARGUMENTS)
    assert kept.stat().st_mtime_ns == made_at
    kept.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    load(MODULE, "measure_extremes", ARGUMENTS)
    assert kept.read_bytes() == good


def test_code_that_may_not_be_read_is_made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, open_ = tmp_path / "closed", tmp_path / "open"
    (closed / f"measure_extremes-{kernel._key(MODULE)}.code").mkdir(parents=True)  # root may read any file
    open_.mkdir()
    monkeypatch.setattr(kernel, "_folders", lambda: [closed, open_])
    monkeypatch.setattr(kernel, "_is_writable", lambda folder: folder == open_)
    assert kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)(*[0] * 5, 0, *[0] * 6) == OK
    (kept,) = open_.glob("*.code")
    assert kept.stat().st_mode & 0o777 == 0o644


def test_neither_lock_nor_refusal_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_folders", lambda: [tmp_path])
    stem = f"measure_extremes-{kernel._key(MODULE)}"
    (tmp_path / f"{stem}.lock").mkdir()  # as a file of another user: root may open any
    (tmp_path / f"{stem}.refused").mkdir()
    assert kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)(*[0] * 5, 0, *[0] * 6) == OK
    (tmp_path / f"{stem}.code").unlink()
    builder = tmp_path / "builder"
    builder.write_text("#!/bin/sh\necho 'not an ELF64 object of x86-64' >&2\nexit 3\n")
    builder.chmod(0o755)
    monkeypatch.setattr(kernel.sys, "executable", str(builder))
    assert kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)(*[0] * 5, 0, *[0] * 6) == OK


def test_threads_that_ask_at_once_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def slow(*arguments: object) -> str:
        asked.append(arguments)
        time.sleep(0.2)
        return "kernel"

    monkeypatch.setattr(kernel, "find_or_compile", functools.cache(slow))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: kernel.load_kernel(MODULE, "any", 0), range(8))) == {"kernel"}
    assert len(asked) == 1


def test_without_a_folder_it_is_compiled_and_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(kernel, "_folders", lambda: [Path("/proc/nowhere")])
    function = kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)
    assert function(*[0] * 5, 0, *[0] * 6) == OK
    assert "no folder to keep the kernel measure_extremes in" in caplog.text


def test_code_that_needs_more_is_refused() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    ir = "declare i64 @outside(i64)\ndefine i64 @kernel(i64 %x) {\n %y = call i64 @outside(i64 %x)\n ret i64 %y\n}"
    with pytest.raises(LinkError, match="outside"):
        link_object(machine.emit_object(llvm.parse_assembly(ir)), "kernel")
    writes = "@state = global i64 7\ndefine i64 @kernel() {\n %y = load i64, ptr @state\n ret i64 %y\n}"
    with pytest.raises(LinkError, match="written to"):
        link_object(machine.emit_object(llvm.parse_assembly(writes)), "kernel")
    with pytest.raises(LinkError, match="not an ELF64 object"):
        link_object(b"\x7fELF" + bytes(80), "kernel")


def test_what_cannot_stand_alone_is_compiled_here(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(kernel, "_folders", list)
    monkeypatch.setattr(kernel.sys, "executable", "/bin/false")
    function = kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)
    assert function(*[0] * 5, 0, *[0] * 6) == OK
    assert "numba compiles the kernel measure_extremes in every process" in caplog.text


def test_what_cannot_stand_alone_is_tried_once_for_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = tmp_path / "tries"
    builder = tmp_path / "builder"
    builder.write_text(f"#!/bin/sh\necho x >> {tries}\necho 'not an ELF64 object of x86-64' >&2\nexit 3\n")
    builder.chmod(0o755)
    monkeypatch.setattr(kernel, "_folders", lambda: [tmp_path / "kept"])
    monkeypatch.setattr(kernel.sys, "executable", str(builder))
    for _ in range(2):
        function = kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)
        assert function(*[0] * 5, 0, *[0] * 6) == OK
        assert "(not an ELF64 object of x86-64" in caplog.text
    assert tries.read_text() == "x\n"
    (refusal,) = (tmp_path / "kept").glob(f"measure_extremes-{kernel._key(MODULE)}.refused")
    refusal.unlink()
    builder.write_text(builder.read_text().replace("exit 3", "exit 1"))  # such as one that was killed
    for _ in range(2):
        kernel.find_or_compile.__wrapped__(MODULE, "measure_extremes", ARGUMENTS)
    assert tries.read_text() == "x\n" * 3


@pytest.mark.parametrize("step", ["observe", "derive"])
def test_neither_numba_nor_onnx_is_loaded_for(step: str) -> None:
    code = f"import sys, app.worker.steps.{step}; print([m for m in ('numba', 'llvmlite', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_thresholds_are_searched_without_numba() -> None:
    find_entropy_bins(np.arange(2048))  # where this is the first search on this machine, the code is made now
    mse_amax(np.arange(8192), 1.0, 8192.0)
    code = (
        "import sys, numpy; from app.quant.entropy import find_entropy_bins; from app.quant.mse import mse_amax;"
        "print(find_entropy_bins(numpy.arange(2048)), mse_amax(numpy.arange(8192), 1.0, 8192.0), 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    bins, amax = find_entropy_bins(np.arange(2048)), mse_amax(np.arange(8192), 1.0, 8192.0)
    assert done.stdout.split() == [str(bins), str(amax), "False"]


def test_the_code_alone_finds_the_thresholds_that_numbas_does(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    samples = [np.abs(generator.laplace(size=10**power)) for power in (2, 3, 4, 5) for _ in range(5)]

    def search(values: np.ndarray) -> tuple[int, float]:
        fine, coarse = (np.histogram(values, bins, (0, values.max()))[0] for bins in (8192, 2048))
        return find_entropy_bins(coarse), mse_amax(fine, values.max() / 8192, values.max())

    alone = [search(values) for values in samples]
    assert len(set(alone)) == len(samples)
    for module in ("entropy", "mse"):
        monkeypatch.setattr(f"app.quant.{module}.load_kernel", functools.cache(kernel.jit_kernel))
    assert [search(values) for values in samples] == alone


def test_functions_of_the_c_library_may_be_called(tmp_path: Path) -> None:
    linked = build_code(_log_of, types.int64(types.CPointer(types.float64)))
    assert linked.outside.keys() == {"log"}
    kernel.save_code(tmp_path / "log.code", linked)
    body = kernel._read(tmp_path / "log.code")
    assert body is not None
    numbers = np.array([2.5, 0.0])
    assert kernel._from_code(body, 1)(numbers.ctypes.data) == 7
    assert numbers[1] == math.log(2.5)


def _log_of(numbers):
    given = carray(numbers, 2)
    given[1] = np.log(given[0])
    return 7


def test_preparing_loads_no_more_than_it_needs() -> None:
    modules = ("numba", "pydantic", "onnx.reference", "hashlib", "numpy.random")
    code = f"import sys, app.worker.steps.prepare; print([m for m in {modules} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_code_is_never_writable_and_executable() -> None:
    code = (
        "from pathlib import Path; from app.native.kernel import load_kernel;"
        f"load_kernel({MODULE!r}, 'measure_extremes', {ARGUMENTS});"
        "maps = [line.split() for line in Path('/proc/self/maps').read_text().splitlines()];"
        "print({fields[1] for fields in maps if fields[5:6] == ['/dev/zero']})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'r-xs'}"  # what mmap calls memory without a file
