"""Archives of strangers, read member by member: zip, tar, tar.gz, tar.zst. Nothing is ever extracted to its path.

The kind is told by the first bytes alone. Every count is one of real bytes.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.errors import ArchiveAmbiguous, ArchiveProblem
from app.inputs.budget import Budget, Member
from app.inputs.limits import InputLimits
from app.inputs.tars import has_valid_checksum, read_tar
from app.inputs.zips import read_zip

_HEAD_BYTES = 512
#: A zip's end record with the longest comment.
_ZIP_END_BYTES = 22 + 0xFFFF


def find_kind(head: bytes) -> str | None:
    """Return zip, gzip, zstd or tar as the first 512 bytes of a file say, or None."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return "tar" if is_tar(head) else None


def is_tar(head: bytes) -> bool:
    """Tell whether these bytes begin like a tar, also one from before POSIX without the magic `ustar`."""
    return len(head) >= _HEAD_BYTES and has_valid_checksum(head[:_HEAD_BYTES])


def read_archive(path: Path, limits: InputLimits) -> Iterator[Member]:
    """Yield the plain files of an archive in its order, litter of file managers among them.

    Raises a subclass of ArchiveProblem that names the member, at the latest when the last one was yielded.
    """
    budget = Budget(limits, path.stat().st_size)
    with path.open("rb") as file:
        kind = _get_kind(file)
        members = read_zip(file, budget) if kind == "zip" else read_tar(file, kind, budget)
        for member in members:
            yield member
            _drain(member)


def _get_kind(file: BinaryIO) -> str:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if not head:
        raise ArchiveProblem(reason="it is empty")
    kind = find_kind(head)
    if kind is None and _ends_like_zip(file):
        raise ArchiveAmbiguous(reason="bytes stand before the zip")
    if kind is None:
        raise ArchiveProblem(reason="it begins like none")
    return kind


def _ends_like_zip(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ZIP_END_BYTES))
    return b"PK\x05\x06" in file.read()


def _drain(member: Member) -> None:
    # What its reader left is read all the same: checksums stand behind the bytes, and a stream must move on.
    for _ in member.chunks:
        pass
