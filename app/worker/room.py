"""Folders that only spare work, kept on this machine until there are too many bytes of them."""

import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

#: A folder that was used later than this may be in use.
_IN_USE_SECONDS = 24 * 3600
#: How a folder is named that is not complete.
UNFINISHED = "new-"


def make_room(parent: Path, limit_bytes: int) -> int:
    """Remove the folders that were not used for longest until the rest is below the limit, and what a crash left.

    Returns how many bytes there are now.
    """
    folders = sorted(_ages(parent))
    total = sum(size for _, size, _ in folders)
    for used_at, size, folder in folders:
        is_kept = total <= limit_bytes and not folder.name.startswith(UNFINISHED)
        if is_kept or time.time() - used_at < _IN_USE_SECONDS:
            continue
        _remove(folder)
        total -= size
    return total


def _remove(folder: Path) -> None:
    # Renamed first: half of a folder must not pass for a whole one.
    going = folder.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        folder.rename(going)
    except OSError:
        return  # another worker was faster
    shutil.rmtree(going, ignore_errors=True)


def _ages(parent: Path) -> Iterator[tuple[float, int, Path]]:
    for folder in parent.iterdir() if parent.is_dir() else ():
        try:
            yield folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir()), folder
        except (FileNotFoundError, NotADirectoryError):
            continue  # another worker was faster
