"""One decorator for the kernels: machine code on first call, kept on disk, the GIL released."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile function with numba, nogil, cached beside the source or in numba's own cache folder.

    Where neither folder is writable the code is compiled anew in every process (about a second): numba refuses
    `cache=True` there with a RuntimeError as soon as the module is imported.
    """
    try:
        return cast(F, njit(function, nogil=True, cache=True, error_model="numpy"))
    except RuntimeError:
        return cast(F, njit(function, nogil=True, error_model="numpy"))
