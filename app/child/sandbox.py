"""What a child gives up before it looks at anything from outside (Linux)."""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies, so that no step outlives its worker."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def limit_memory(limit_bytes: int) -> None:
    """Bound the address space; what grows past it gets a MemoryError."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def forbid_privileges() -> None:
    """Leave no core dumps, gain no privileges, and leave the network where the kernel allows it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A container may forbid new namespaces; then the child keeps the network, and still opens no socket itself.
    _libc().unshare(_CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
