"""What a process does before its first calibration: the runtime and the kernel are there, and threads wait."""

import subprocess
import sys

import onnx
import pytest

from app.observers.warm import MODEL
from tests.observers.warm_net import make_warm_net

CODE = """
import os, sys, threading, time
from app.native import kernel
from app.observers import warm
if {forgets}:
    kernel._folders = lambda: iter(())
warm.warm_observer()
while threading.active_count() > 1 + len(os.sched_getaffinity(0)):
    time.sleep(0.01)  # those of the observer that is closed are ending
print(kernel.find_or_compile.cache_info().currsize, threading.active_count(), len(os.sched_getaffinity(0)))
print(sorted({{"numba", "onnx"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("forgets", [False, True])
def test_a_kernel_is_loaded_and_never_compiled(forgets: bool) -> None:
    from app.observers.counting import load

    load("count_mergeable")  # compiled and kept, where this is the first use on this machine
    code = CODE.format(forgets=forgets)
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    loaded, threads, cores = (int(word) for word in said[0].split())
    assert loaded == (0 if forgets else 1)
    assert threads == 1 + (0 if forgets else cores)
    assert said[1] == "[]"


def test_the_packaged_net_is_the_one_that_its_recipe_makes() -> None:
    assert onnx.load(MODEL).graph == make_warm_net().graph
