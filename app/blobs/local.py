"""Blobs in a folder: sha256/ab/abcd..., written by fsync, rename, fsync of the folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import structlog

from app.blobs.durable import raising_problems, sync_folder
from app.blobs.store import CHUNK_BYTES, sha256_of
from app.errors import BlobCorrupt

log = structlog.get_logger()


class LocalBlobs:
    """A BlobStore in a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: What a file looked like when its digest was found right; it is hashed again only when that has changed.
        self._verified: dict[str, tuple[int, int, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path, digest: str) -> None:
        target = self._path(digest)
        with raising_problems():
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o440)
            path.replace(target)
            sync_folder(target.parent)
            sync_folder(target.parent.parent)

    def size(self, digest: str) -> int:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError as error:
            raise BlobCorrupt(digest=digest) from error

    def read(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        with self._path(digest).open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
                start += len(chunk)
                yield chunk

    def fetch(self, digest: str) -> Path:
        self.verify(digest)
        return self._path(digest)

    def has(self, digest: str) -> bool:
        return self._path(digest).is_file()

    def verify(self, digest: str) -> None:
        """Raise BlobCorrupt where the bytes are gone or wrong; wrong ones are set aside, so that they are made anew."""
        self.size(digest)
        path = self._path(digest)
        now = path.stat()
        looks = (now.st_ino, now.st_size, now.st_mtime_ns)
        if self._verified.get(digest) == looks:
            return
        if sha256_of(path) != digest:
            aside = self._folder / "quarantine"
            aside.mkdir(exist_ok=True)
            path.replace(aside / f"{digest}-{now.st_mtime_ns}")
            log.error("a blob was changed and is set aside", digest=digest)
            raise BlobCorrupt(digest=digest)
        self._verified[digest] = looks

    def check(self) -> None:
        with raising_problems():
            self._folder.stat()

    def _path(self, digest: str) -> Path:
        return self._folder / "sha256" / digest[:2] / digest
