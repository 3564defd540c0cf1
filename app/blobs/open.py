"""Open the blob store that a URL names."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from app.blobs.local import LocalBlobs
from app.blobs.s3 import S3Blobs
from app.blobs.store import BlobStore


def open_blobs(url: str, cache: Path, s3_endpoint: str | None = None) -> BlobStore:
    """Return the store at file:///folder or s3://bucket/prefix; `cache` is a folder for what S3 sends."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Blobs(url, cache, s3_endpoint)
    if parts.scheme != "file":
        raise ValueError(f"blob_url starts with file:// or s3://, not {parts.scheme}://")
    return LocalBlobs(Path(url2pathname(parts.path)))
