"""Folders that only spare work, kept on this machine until there are too many bytes of them."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

#: A folder that was used later than this may be in use.
_IN_USE_SECONDS = 24 * 3600
#: How a folder is named that is not complete.
UNFINISHED = "new-"


def make_room(parent: Path, limit_bytes: int) -> None:
    """Remove the folders that were not used for longest until the rest is below the limit, and what a crash left."""
    folders = sorted(_ages(parent))
    total = sum(size for _, size, _ in folders)
    for used_at, size, folder in folders:
        is_kept = total <= limit_bytes and not folder.name.startswith(UNFINISHED)
        if is_kept or time.time() - used_at < _IN_USE_SECONDS:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def count_bytes(parent: Path) -> int:
    """Return how many bytes all folders have together."""
    return sum(size for _, size, _ in _ages(parent))


def _ages(parent: Path) -> Iterator[tuple[float, int, Path]]:
    for folder in parent.iterdir() if parent.is_dir() else ():
        try:
            yield folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir()), folder
        except (FileNotFoundError, NotADirectoryError):
            continue  # another worker was faster
