"""The end of a child's process group: the child and what it started, such as the compiler of a kernel."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def end_group(leader: int, exit_code: int | None) -> None:
    """Kill all that is left of the group which this child leads; its exit code is None until that is collected.

    Does nothing where nothing is left, or where the group is not ours any more.
    """
    # A child that was not collected keeps its number, dead or alive. Afterwards Linux keeps the number for as long as the
    # group has a member, so a process with that number proves our group empty, and the group of that number a stranger's.
    # asyncio collects a child by itself and tells a moment later; in that moment nobody can know, but all the numbers of
    # this machine would have to be used up in it as well.
    if exit_code is not None and Path(f"/proc/{leader}").exists():
        return
    with suppress(ProcessLookupError, PermissionError):  # not permitted: another user's, so no child of ours
        os.killpg(leader, signal.SIGKILL)
