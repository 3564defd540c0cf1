"""Bytes on their way out: strong ETag = digest, Range (RFC 9110), never to be shown or run by a browser."""

import hashlib
import re
from collections.abc import Iterator

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from app.blobs.store import BlobStore
from app.errors import BlobCorrupt, RangeInvalid

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_HEADERS = {
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
    "Cache-Control": "private, no-cache",
}


def blob_response(request: Request, blobs: BlobStore, digest: str, file_name: str) -> Response:
    """Return the blob, the range of it that was asked for, or 304. Raises RangeInvalid and BlobCorrupt."""
    blobs.verify(digest)
    size = blobs.size(digest)
    headers = _HEADERS | {"ETag": f'"{digest}"', "Content-Disposition": f'attachment; filename="{file_name}"'}
    if _matches(request.headers.get("if-none-match"), digest):
        return Response(status_code=304, headers=headers)
    span = _span(request, digest, size)
    if span is None:
        body = _checked(blobs, digest, size)
        return StreamingResponse(body, headers=headers | {"Content-Length": str(size)}, media_type="application/octet-stream")
    start, end = span
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return StreamingResponse(blobs.read(digest, start, end), 206, headers, "application/octet-stream")


def bytes_response(body: bytes, media_type: str, file_name: str) -> Response:
    """Return a small file to be saved under that name."""
    headers = _HEADERS | {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "none"}
    headers["Content-Disposition"] = f'attachment; filename="{file_name}"'
    return Response(body, media_type=media_type, headers=headers)


def _checked(blobs: BlobStore, digest: str, size: int) -> Iterator[bytes]:
    """Yield the whole blob; a wrong one is cut off before its last chunk, so nobody takes it for complete."""
    seen = hashlib.sha256()
    held = b""
    for chunk in blobs.read(digest, 0, size):
        if held:
            yield held
        held = chunk
        seen.update(chunk)
    if seen.hexdigest() != digest:
        raise BlobCorrupt(digest=digest)
    yield held


def _span(request: Request, digest: str, size: int) -> tuple[int, int] | None:
    asked = request.headers.get("range")
    condition = request.headers.get("if-range")
    if asked is None or (condition is not None and condition.strip('"') != digest):
        return None
    found = _RANGE.fullmatch(asked.strip())
    if found is None:
        return None  # several ranges, or another unit: the whole is a valid answer
    first, last = found.groups()
    if (first and last and int(last) < int(first)) or (not first and not last):
        return None  # no range at all (RFC 9110, 14.1.1): it is as if none were asked for
    if not first:
        start, end = max(0, size - int(last or 0)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    if start >= end:
        raise RangeInvalid(size=size)
    return start, end


def _matches(condition: str | None, digest: str) -> bool:
    return condition is not None and (condition.strip() == "*" or f'"{digest}"' in condition)
