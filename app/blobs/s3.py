"""Blobs in an S3-compatible store, through obstore."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from app.blobs.durable import raising_problems
from app.blobs.store import CHUNK_BYTES, sha256_of
from app.errors import BlobCorrupt, StorageUnavailable


class S3Blobs:
    """A BlobStore in a bucket; what a worker reads is kept in a local folder, checked by digest."""

    def __init__(self, url: str, cache: Path, endpoint: str | None) -> None:
        options = {"endpoint": endpoint, "virtual_hosted_style_request": False} if endpoint else {}
        if endpoint and endpoint.startswith("http://"):
            options["client_options"] = {"allow_http": True}
        retry = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
        self._store = S3Store.from_url(url, retry_config=retry, **options)  # type: ignore[arg-type]
        self._cache = cache

    def put(self, path: Path, digest: str) -> None:
        with _raising_problems():
            obstore.put(self._store, _key(digest), path)
        path.unlink()

    def size(self, digest: str) -> int:
        with _raising_problems(digest):
            return obstore.head(self._store, _key(digest))["size"]

    def read(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            with _raising_problems(digest):
                chunk = bytes(obstore.get_range(self._store, _key(digest), start=start, end=min(start + 8 * CHUNK_BYTES, end)))
            start += len(chunk)
            yield chunk

    def fetch(self, digest: str) -> Path:
        path = self._cache / digest
        if not path.exists():
            with raising_problems():
                self._cache.mkdir(parents=True, exist_ok=True)
                staged = self._cache / f"{digest}.{uuid.uuid4().hex}"
                with staged.open("wb") as file:
                    for chunk in self.read(digest, 0, self.size(digest)):
                        file.write(chunk)
                staged.replace(path)
        if sha256_of(path) != digest:
            path.unlink()
            raise BlobCorrupt(digest=digest)
        return path

    def has(self, digest: str) -> bool:
        try:
            self.size(digest)
        except BlobCorrupt:
            return False
        return True

    def verify(self, digest: str) -> None:
        self.size(digest)

    def check(self) -> None:
        with _raising_problems():
            next(iter(obstore.list(self._store, prefix="sha256/00", chunk_size=1)), None)


def _key(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest}"


@contextmanager
def _raising_problems(digest: str = "") -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise BlobCorrupt(digest=digest) from error
    except BaseError as error:
        raise StorageUnavailable(reason=type(error).__name__) from error
