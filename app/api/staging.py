"""Bodies on their way to disk: streamed, counted and hashed, and gone again unless they were kept."""

import asyncio
import hashlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from app.api.digests import declared_digest
from app.blobs.durable import raising_problems
from app.errors import DigestMismatch, MediaTypeUnsupported, RequestTimeout, UploadTruncated
from app.settings import Settings

#: Written and hashed in one go, in a thread.
_CHUNK_BYTES = 4 << 20
#: A body that comes more slowly than this, over more than the idle time, only holds a place.
_SLOWEST_BYTES_PER_SECOND = 1024


@dataclass(frozen=True)
class Staged:
    """A body on disk."""

    path: Path
    sha256: str
    size: int


class Sink:
    """A file that hashes and counts what is written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._size = 0
        with raising_problems():
            self._file: BinaryIO = path.open("wb")

    async def write(self, data: bytes) -> None:
        """Append data. Raises InsufficientStorage or StorageUnavailable."""
        await asyncio.to_thread(self._write, data)

    def close(self) -> Staged:
        with raising_problems():
            self._file.close()
        return Staged(self.path, self._digest.hexdigest(), self._size)

    def _write(self, data: bytes) -> None:
        with raising_problems():
            self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


@asynccontextmanager
async def staging_folder(settings: Settings) -> AsyncIterator[Path]:
    """Give a fresh folder for one request's files, and remove it at the end."""
    folder = settings.temporary_folder / f"upload-{uuid.uuid4().hex}"
    with raising_problems():
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def stage_body(request: Request, settings: Settings, folder: Path) -> Staged:
    """Write the request's raw body to a file in folder.

    Raises MediaTypeUnsupported, RequestTimeout, UploadTruncated, PayloadTooLarge, DigestInvalid, DigestMismatch and what
    the disk raises.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise MediaTypeUnsupported(expected="a file's bytes as the body (curl -T FILE or --data-binary @FILE)", received=kind)
    expected = declared_digest(request.headers)
    sink = Sink(folder / "body")
    async for chunk in read_chunks(request, settings.upload_idle_seconds):
        await sink.write(chunk)
    staged = sink.close()
    check_length(request, staged.size)
    if expected is not None and expected != staged.sha256:
        raise DigestMismatch(expected=expected, actual=staged.sha256)
    return staged


async def read_chunks(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """Yield the body in pieces of about 4 MiB. Raises RequestTimeout when it stands still or crawls."""
    waiting = bytearray()
    began, received = time.monotonic(), 0
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError as error:
            raise RequestTimeout(seconds=int(idle_seconds)) from error
        waiting += chunk
        received += len(chunk)
        elapsed = time.monotonic() - began
        if elapsed > idle_seconds and received < elapsed * _SLOWEST_BYTES_PER_SECOND:
            raise RequestTimeout(seconds=int(elapsed))
        if len(waiting) >= _CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def check_length(request: Request, received: int) -> None:
    """Raise UploadTruncated if fewer bytes came than were declared."""
    declared = request.headers.get("content-length")
    if declared is not None and int(declared) != received:
        raise UploadTruncated(received=received)
