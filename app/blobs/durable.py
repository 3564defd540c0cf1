"""Files that outlive a power cut, and the disk's complaints as problems."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import InsufficientStorage, StorageUnavailable

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def raising_problems() -> Iterator[None]:
    """Turn an OSError of the disk into InsufficientStorage or StorageUnavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InsufficientStorage from error
        raise StorageUnavailable(reason=os.strerror(error.errno or 0)) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
