"""A zip's table of contents: the end record, zip64's, and the central directory, each read in one way only."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import BinaryIO, NamedTuple

from app.errors import ArchiveAmbiguous, ArchiveProblem, ArchiveTooManyEntries, ArchiveUnsafeMember, ArchiveUnsupported
from app.inputs.budget import Budget

STORED, DEFLATED = 0, 8
HAS_DESCRIPTOR = 1 << 3
_UTF8 = 1 << 11
#: Encrypted, patch data, strongly encrypted, masked headers.
_UNREADABLE_FLAGS = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 13

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_HEADER = struct.Struct("<4s6H3L5H2L")
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_KINDS = {0o120000: "symbolic link", 0o010000: "FIFO", 0o020000: "device", 0o060000: "device", 0o140000: "socket"}


@dataclass(frozen=True)
class Entry:
    """One header of the central directory. Sizes and offset in bytes, `checksum` a CRC-32."""

    path: str
    raw_name: bytes
    flags: int
    method: int
    checksum: int
    packed_size: int
    size: int
    offset: int
    is_folder: bool


class _End(NamedTuple):
    entries: int
    directory_size: int
    directory_offset: int


def read_directory(file: BinaryIO, budget: Budget) -> tuple[list[Entry], int]:
    """Return all entries, and the offset where the central directory begins.

    Raises ArchiveProblem where it is cut off, ArchiveAmbiguous where two readings are possible.
    """
    end, end_start = _read_end(file, budget.archive_size)
    if end.directory_offset + end.directory_size != end_start:
        raise ArchiveAmbiguous(reason="its table of contents does not lie right before its end record")
    if end.entries > budget.limits.archive_members:
        raise ArchiveTooManyEntries(limit=budget.limits.archive_members)
    if end.directory_size > budget.limits.archive_directory_bytes:
        raise ArchiveProblem(reason="its table of contents is too large")
    file.seek(end.directory_offset)
    entries = list(_parse_headers(file.read(end.directory_size), budget))
    if len(entries) != end.entries:
        raise ArchiveAmbiguous(reason="its table of contents has another length than its end record says")
    return entries, end.directory_offset


def _read_end(file: BinaryIO, archive_size: int) -> tuple[_End, int]:
    tail_start = max(0, archive_size - _END.size - _FULL16)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise ArchiveProblem(reason="the end of the zip is missing; it was cut off, or something was added to it")
    _, disk, directory_disk, here, entries, size, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise ArchiveAmbiguous(reason="bytes stand behind its end record, or it has two")
    if disk or directory_disk or here != entries:
        raise ArchiveAmbiguous(reason="it is a part of a split archive")
    return _resolve_end64(file, _End(entries, size, offset), tail_start + at)


def _resolve_end64(file: BinaryIO, end: _End, end_start: int) -> tuple[_End, int]:
    is_full = end.entries == _FULL16 or _FULL32 in (end.directory_size, end.directory_offset)
    at = end_start - _END64_LOCATOR.size
    locator = _read_at(file, at, _END64_LOCATOR) if at >= 0 else None
    if locator is None or locator[0] != b"PK\x06\x07":
        if is_full:
            raise ArchiveAmbiguous(reason="its zip64 end record is missing")
        return end, end_start
    record = _read_at(file, locator[2], _END64)
    if record is None or record[0] != b"PK\x06\x06" or locator[2] + _END64.size != at or record[1] != _END64.size - 12:
        raise ArchiveAmbiguous(reason="its zip64 end record does not stand where it should")
    if locator[1] or locator[3] != 1 or record[4] or record[5] or record[6] != record[7]:
        raise ArchiveAmbiguous(reason="it is a part of a split archive")
    end64 = _End(*record[7:10])
    for short, full, value in zip(end, (_FULL16, _FULL32, _FULL32), end64, strict=True):
        if short not in (full, value):
            raise ArchiveAmbiguous(reason="its two end records disagree")
    return end64, locator[2]


def _read_at(file: BinaryIO, offset: int, layout: struct.Struct) -> tuple | None:
    if offset >= 1 << 63:
        return None
    file.seek(offset)
    found = file.read(layout.size)
    return layout.unpack(found) if len(found) == layout.size else None


def _parse_headers(directory: bytes, budget: Budget) -> Iterator[Entry]:
    at = 0
    while at < len(directory):
        if len(directory) - at < _HEADER.size or directory[at : at + 4] != b"PK\x01\x02":
            raise ArchiveAmbiguous(reason="its table of contents is damaged")
        fields = _HEADER.unpack_from(directory, at)
        name_end = at + _HEADER.size + fields[10]
        extra_end = name_end + fields[11]
        at, start = extra_end + fields[12], at
        if at > len(directory):
            raise ArchiveAmbiguous(reason="its table of contents is cut off")
        budget.count_member()
        raw_name = directory[start + _HEADER.size : name_end]
        yield _entry_from_header(fields, raw_name, directory[name_end:extra_end], budget)


def _entry_from_header(fields: tuple, raw_name: bytes, raw_extra: bytes, budget: Budget) -> Entry:
    flags, method, checksum = fields[3], fields[4], fields[7]
    extra = parse_extra(raw_extra, raw_name)
    name = _decode_name(raw_name, flags, extra)
    is_folder = name.endswith("/")
    _check_kind(name, fields[15] >> 16, is_folder)
    path = budget.claim_path(name, is_folder)
    _check_readable(path, flags, method)
    size, packed_size, offset, disk = resolve_sizes(path, extra, (fields[9], fields[8], fields[16], fields[13]))
    if disk:
        raise ArchiveAmbiguous(reason=f"member {path} is on another disk")
    if is_folder and size:
        raise ArchiveAmbiguous(reason=f"folder {path} holds bytes")
    return Entry(path, raw_name, flags, method, checksum, packed_size, size, offset, is_folder)


def _check_readable(path: str, flags: int, method: int) -> None:
    if flags & _UNREADABLE_FLAGS:
        raise ArchiveUnsupported(member=path, reason="it is encrypted or patched")
    if method not in (STORED, DEFLATED):
        raise ArchiveUnsupported(member=path, reason=f"compression method {method}")


def _check_kind(name: str, mode: int, is_folder: bool) -> None:
    kind = S_IFMT(mode)
    if kind not in (0, S_IFREG, S_IFDIR):
        raise ArchiveUnsafeMember(member=name, kind=_KINDS.get(kind, "special file"))
    if (kind == S_IFDIR and not is_folder) or (kind == S_IFREG and is_folder):
        raise ArchiveAmbiguous(reason=f"member {name} is both file and folder")


def parse_extra(raw: bytes, raw_name: bytes) -> dict[int, bytes]:
    """Return the extra fields by their ids. Raises ArchiveAmbiguous where they do not fill their space exactly."""
    extra: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < 4:
            raise ArchiveAmbiguous(reason=f"the extra fields of member {raw_name!r} are damaged")
        kind, size = struct.unpack_from("<2H", raw, at)
        at += 4 + size
        if at > len(raw) or (kind in extra and kind in (_ZIP64_EXTRA, _UNICODE_PATH_EXTRA)):
            raise ArchiveAmbiguous(reason=f"the extra fields of member {raw_name!r} are damaged")
        extra[kind] = raw[at - size : at]
    return extra


def resolve_sizes(path: str, extra: dict[int, bytes], short: tuple[int, ...]) -> list[int]:
    """Return size, packed size, offset, disk, with those that are full (all ones) taken from the zip64 extra field."""
    full = (_FULL32, _FULL32, _FULL32, _FULL16)[: len(short)]
    needed = [value == limit for value, limit in zip(short, full, strict=True)]
    if not any(needed):
        return list(short)
    layout = "<" + "".join(code for code, is_needed in zip("QQQL", needed, strict=False) if is_needed)
    record = extra.get(_ZIP64_EXTRA, b"")
    if len(record) != struct.calcsize(layout):
        raise ArchiveAmbiguous(reason=f"the zip64 sizes of member {path} are missing or too many")
    values = iter(struct.unpack(layout, record))
    return [next(values) if is_needed else value for value, is_needed in zip(short, needed, strict=True)]


def _decode_name(raw: bytes, flags: int, extra: dict[int, bytes]) -> str:
    name = _decode_plain_name(raw, flags)
    record = extra.get(_UNICODE_PATH_EXTRA)
    if record is None:
        return name
    if len(record) < 5 or record[0] != 1 or struct.unpack_from("<L", record, 1)[0] != zlib.crc32(raw):
        raise ArchiveAmbiguous(reason=f"member {name} has a second name that does not belong to it")
    second = _decode_utf8(record[5:])
    if raw.isascii() and second != name:
        raise ArchiveAmbiguous(reason=f"member {name} has a second name {second}")
    return second


def _decode_plain_name(raw: bytes, flags: int) -> str:
    if flags & _UTF8:
        return _decode_utf8(raw)
    try:
        # macOS and Info-ZIP write UTF-8 without its flag; text in code page 437 is hardly ever valid UTF-8.
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _decode_utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ArchiveAmbiguous(reason=f"the name {raw!r} says that it is UTF-8 and is not") from error
