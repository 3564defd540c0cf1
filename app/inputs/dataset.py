"""An uploaded archive of images becomes a pack (all their bytes, one file) and a listing. Runs in a throw-away child."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import ArchiveTooLarge, DatasetEmpty, ImageUnsupportedFormat
from app.inputs.archive import read_archive
from app.inputs.budget import Member
from app.inputs.headers import begins_like_image, read_header
from app.inputs.labels import LABELS_FILE, parse_labels
from app.inputs.limits import InputLimits
from app.inputs.listing import summary_from_listing
from app.inputs.paths import is_litter

_REPORT_EVERY = 500
_MAX_LISTED = 100


@dataclass
class _Unpacking:
    limits: InputLimits
    pack: BinaryIO
    files: list[dict[str, Any]] = field(default_factory=list)
    offset: int = 0
    ignored: int = 0
    labels: bytes | None = None
    others: list[str] = field(default_factory=list)
    others_count: int = 0


def unpack_dataset(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the pack and the listing of an archive; return {"images", "bytes", "digest", "labels", "ignored"}.

    request: {"archive": path, "pack": path to write, "listing": path to write, "limits": InputLimits as JSON}.
    Raises ArchiveProblem's classes, ImageUnsupportedFormat, ImageTooLarge and LabelsInvalid, each naming the member.
    """
    limits = InputLimits.model_validate(request["limits"])
    with Path(request["pack"]).open("wb") as pack:
        unpacking = _Unpacking(limits, pack)
        for number, member in enumerate(read_archive(Path(request["archive"]), limits), start=1):
            _take(unpacking, member)
            if number % _REPORT_EVERY == 0:
                report({"log": f"{number} files read"})
    listing = _listing_from(unpacking)
    summary = summary_from_listing(listing)
    Path(request["listing"]).write_text(json.dumps(listing, separators=(",", ":")), encoding="utf-8")
    return summary


def _take(unpacking: _Unpacking, member: Member) -> None:
    if is_litter(member.path):
        unpacking.ignored += 1
    elif member.path == LABELS_FILE:
        unpacking.labels = _read_labels(member, unpacking.limits)
    else:
        _take_image(unpacking, member)


def _read_labels(member: Member, limits: InputLimits) -> bytes:
    if member.size > limits.labels_bytes:
        raise ArchiveTooLarge(limit_bytes=limits.labels_bytes, what=LABELS_FILE)
    return member.read()


def _take_image(unpacking: _Unpacking, member: Member) -> None:
    content = _read_if_image(member.chunks)
    if content is None:
        unpacking.others_count += 1
        unpacking.others += [member.path] if len(unpacking.others) < _MAX_LISTED else []
        return
    unpacking.pack.write(content)
    entry = {"path": member.path, "sha256": hashlib.sha256(content).hexdigest()}
    entry |= {"offset": unpacking.offset, "size": len(content)}
    unpacking.files.append(entry | read_header(content, member.path, unpacking.limits))
    unpacking.offset += len(content)


def _read_if_image(chunks: Iterator[bytes]) -> bytes | None:
    # What is no image is not collected: the archive's reader drains it, counted.
    first = b""
    while len(first) < 12 and (chunk := next(chunks, b"")):
        first += chunk
    return first + b"".join(chunks) if begins_like_image(first) else None


def _listing_from(unpacking: _Unpacking) -> dict[str, Any]:
    if unpacking.others:
        raise ImageUnsupportedFormat(count=unpacking.others_count, names=unpacking.others)
    if not unpacking.files:
        ignored = f" ({unpacking.ignored} system files were ignored)" if unpacking.ignored else ""
        raise DatasetEmpty(ignored=ignored)
    labels = unpacking.labels
    return {
        "files": sorted(unpacking.files, key=lambda file: file["path"]),
        "labels_txt": None if labels is None else parse_labels(labels),
        "labels_sha256": None if labels is None else hashlib.sha256(labels).hexdigest(),
        "ignored": unpacking.ignored,
    }
