"""Digests that a client declares of its body."""

import base64
import binascii
import re
from collections.abc import Mapping

from app.errors import DigestInvalid

_CONTENT_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]*):")
_HEX = re.compile(r"[0-9a-f]{64}")
_SHA256_BYTES = 32


def declared_digest(headers: Mapping[str, str]) -> str | None:
    """Return the sha256 hex from X-Content-SHA256 or Content-Digest (RFC 9530). Raises DigestInvalid."""
    plain, structured = headers.get("x-content-sha256"), headers.get("content-digest")
    if plain is not None:
        if not _HEX.fullmatch(plain):
            raise DigestInvalid(header="X-Content-SHA256")
        return plain
    return None if structured is None else _from_content_digest(structured)


def _from_content_digest(value: str) -> str:
    found = _CONTENT_DIGEST.search(value)
    try:
        digest = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        digest = b""
    if len(digest) != _SHA256_BYTES:
        raise DigestInvalid(header="Content-Digest")
    return digest.hex()
