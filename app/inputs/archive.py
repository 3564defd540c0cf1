"""Archives of strangers, read member by member: zip, tar, tar.gz, tar.zst. Nothing is ever extracted to its path.

The kind is told by the first bytes alone. Every count is one of real bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from app.errors import (
    ArchiveCorrupt,
    ArchiveDuplicateName,
    ArchiveProblem,
    ArchiveRatioExceeded,
    ArchiveTooLarge,
    ArchiveTooManyEntries,
)
from app.inputs.limits import InputLimits
from app.inputs.paths import check_path, same_name_key

CHUNK_BYTES = 1 << 18
_HEAD_BYTES = 512


@dataclass(frozen=True)
class Member:
    """A plain file of an archive. `chunks` is read once, before the next member is asked for."""

    path: str
    size: int
    chunks: Iterator[bytes]

    def read(self) -> bytes:
        """Return all bytes; the limits of the archive bound them."""
        return b"".join(self.chunks)


@dataclass
class Budget:
    """What one archive has used up so far of its limits."""

    limits: InputLimits
    archive_size: int
    members: int = 0
    unpacked: int = 0
    _seen: set[str] = field(default_factory=set)
    _folders: set[str] = field(default_factory=set)

    def count_member(self) -> None:
        """Count one entry of any type. Raises ArchiveTooManyEntries."""
        self.members += 1
        if self.members > self.limits.archive_members:
            raise ArchiveTooManyEntries(limit=self.limits.archive_members)

    def claim_path(self, path: str, is_folder: bool) -> str:
        """Return the checked path of an entry. Raises ArchiveUnsafePath and ArchiveDuplicateName."""
        checked = check_path(path, self.limits.path_bytes)
        key = same_name_key(checked)
        if key in self._seen or (not is_folder and key in self._folders):
            raise ArchiveDuplicateName(member=path)
        (self._folders if is_folder else self._seen).add(key)
        return checked

    def check_size(self, path: str, size: int) -> None:
        """Check what a header claims, before the member is read. Raises ArchiveTooLarge."""
        if size > self.limits.member_bytes:
            raise ArchiveTooLarge(limit_bytes=self.limits.member_bytes, what=f"member {path}")
        self._check_total(self.unpacked + size)

    def count_bytes(self, count: int) -> None:
        """Count unpacked bytes. Raises ArchiveTooLarge and ArchiveRatioExceeded."""
        self.unpacked += count
        self._check_total(self.unpacked)

    def _check_total(self, total: int) -> None:
        self.check_ratio(total)
        if total > self.limits.archive_bytes:
            raise ArchiveTooLarge(limit_bytes=self.limits.archive_bytes, what="all members")

    def check_ratio(self, total: int) -> None:
        """Raise ArchiveRatioExceeded where total unpacked bytes are too many for the bytes that were sent."""
        allowed = max(self.limits.archive_ratio * self.archive_size, self.limits.archive_ratio_free_bytes)
        if total > allowed:
            reason = f"{self.archive_size} bytes give more than {allowed}, {self.limits.archive_ratio} times as much"
            raise ArchiveRatioExceeded(reason=reason)


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
    from app.inputs.tars import has_valid_checksum

    return len(head) >= _HEAD_BYTES and has_valid_checksum(head[:_HEAD_BYTES])


def read_archive(path: Path, limits: InputLimits) -> Iterator[Member]:
    """Yield the plain files of an archive in its order, litter of file managers among them.

    Raises a subclass of ArchiveProblem that names the member, at the latest when the last one was yielded.
    """
    from app.inputs import tars, zips

    budget = Budget(limits, path.stat().st_size)
    with path.open("rb") as file:
        kind = _get_kind(file)
        members = zips.read_zip(file, budget) if kind == "zip" else tars.read_tar(file, kind, budget)
        for member in members:
            yield member
            _drain(member)


def _get_kind(file: BinaryIO) -> str:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if not head:
        raise ArchiveProblem(reason="it is empty")
    kind = find_kind(head)
    if kind is None:
        raise ArchiveProblem(reason="it begins like none")
    return kind


def _drain(member: Member) -> None:
    # What its reader left is read all the same: checksums stand behind the bytes, and a stream must move on.
    for _ in member.chunks:
        pass


@contextmanager
def naming(member: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn a decompressor's errors into ArchiveCorrupt of this member."""
    try:
        yield
    except errors as error:
        raise ArchiveCorrupt(member=member, reason=str(error)) from error
