"""What one archive may use up, and the member that its reader hands out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import (
    ArchiveCorrupt,
    ArchiveDuplicateName,
    ArchiveRatioExceeded,
    ArchiveTooLarge,
    ArchiveTooManyEntries,
    ArchiveUnsafePath,
)
from app.inputs.limits import InputLimits
from app.inputs.paths import check_path, same_name_key

CHUNK_BYTES = 1 << 18


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
        if not checked and not is_folder:
            raise ArchiveUnsafePath(member=path, reason="it names the archive's root")
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


@contextmanager
def naming(member: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn a decompressor's errors into ArchiveCorrupt of this member."""
    try:
        yield
    except errors as error:
        raise ArchiveCorrupt(member=member, reason=str(error)) from error
