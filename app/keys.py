"""Keys: sha256 of canonical JSON (RFC 8785). What changes a result is in its key; what stands at its default is not."""

import hashlib
from collections.abc import Iterable
from typing import Any

import rfc8785
from pydantic import BaseModel

#: Raised when a stage computes other numbers from the same input.
OBSERVER_VERSION = 1
DERIVER_VERSION = 1
QUANTIZER_VERSION = 1
JUDGE_VERSION = 1


def key_from(**parts: Any) -> str:
    """Return the sha256 hex of the parts as canonical JSON; pydantic models without their defaults, None left out."""
    told = {name: _plain(part) for name, part in parts.items() if part is not None}
    return hashlib.sha256(rfc8785.dumps(told)).hexdigest()


def dataset_digest(files: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a dataset from its (relative path, sha256 hex of the bytes): order does not matter."""
    return hashlib.sha256(rfc8785.dumps([list(file) for file in sorted(files)])).hexdigest()


def _plain(part: Any) -> Any:
    if isinstance(part, BaseModel):
        return part.model_dump(mode="json", exclude_defaults=True)
    return part
