"""The seam: what every blob store can do. A blob's name is the sha256 hex of its bytes; it never changes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 1 << 20


class BlobStore(Protocol):
    """Keeps bytes under their digest."""

    def put(self, path: Path, digest: str) -> None:
        """Take over the file at path, whose sha256 hex is digest; it is durable when this returns.

        Raises InsufficientStorage or StorageUnavailable; then nothing is stored.
        """
        ...

    def size(self, digest: str) -> int:
        """Return the number of bytes. Raises BlobCorrupt when there are none under that digest."""
        ...

    def has(self, digest: str) -> bool:
        """Return whether there are bytes under that digest."""
        ...

    def verify(self, digest: str) -> None:
        """Raise BlobCorrupt where the bytes are gone or, as far as this store can tell cheaply, wrong."""
        ...

    def read(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from start up to end, in chunks."""
        ...

    def fetch(self, digest: str) -> Path:
        """Return a local file with the bytes, checked against the digest, to be read only."""
        ...

    def check(self) -> None:
        """Raise StorageUnavailable unless the store answers."""
        ...


def sha256_of(path: Path) -> str:
    """Return the sha256 hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
