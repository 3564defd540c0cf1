"""Blobs in a folder: sha256/ab/abcd..., written by fsync, rename, fsync of the folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from app.blobs.durable import raising_problems, sync_folder
from app.blobs.store import CHUNK_BYTES, verify
from app.errors import BlobCorrupt


class LocalBlobs:
    """A BlobStore in a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        self.size(digest)
        return verify(self._path(digest), digest)

    def check(self) -> None:
        with raising_problems():
            self._folder.stat()

    def _path(self, digest: str) -> Path:
        return self._folder / "sha256" / digest[:2] / digest
