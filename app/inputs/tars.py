"""Tar archives, plain or compressed with gzip or zstandard, read as one stream.

The headers are parsed here, since tarfile ends quietly at the first damaged one and would take half an archive for a
whole. Layout: POSIX.1-2017 pax, with GNU's long names. Only plain files and folders pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from app.errors import ArchiveCorrupt, ArchiveProblem, ArchiveUnsafeMember
from app.inputs.budget import CHUNK_BYTES, Budget, Member
from app.inputs.streams import Stream, open_stream

_BLOCK = 512
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"6": "FIFO",
    b"S": "sparse file",
    b"K": "link",
}
_FILE, _FOLDER, _PAX, _GLOBAL_PAX, _LONG_NAME = (b"0", b"\0"), b"5", b"x", b"g", b"L"
#: What a pax header may say. `size`, `linkpath` and GNU.sparse would change how the bytes behind are read.
_PAX_IGNORED = ("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment")
_PAX_IGNORED_PREFIXES = ("SCHILY.", "LIBARCHIVE.", "RHT.", "APPLE.", "MSWINDOWS.")
_MAX_PAX_BYTES = 1 << 20
#: Extended headers before one member; ordinary writers make one or two.
_MAX_EXTENDED = 4


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    kind: bytes


def read_tar(file: BinaryIO, kind: str, budget: Budget) -> Iterator[Member]:
    """Yield the plain files of a tar in its order; `kind` is tar, gzip or zstd. Raises ArchiveProblem's classes."""
    stream = open_stream(file, kind, budget)
    long_name: str | None = None
    extended = 0
    while (block := _read_header_block(stream)) is not None:
        header = _parse_header(block)
        if header.kind in (_PAX, _GLOBAL_PAX, _LONG_NAME):
            extended += 1
            if extended > _MAX_EXTENDED or (long_name is not None and header.kind != _GLOBAL_PAX):
                raise ArchiveProblem(reason="a member has two long names, or too many extended headers")
            long_name = _read_long_name(stream, header) or long_name
            continue
        budget.count_member()
        yield from _read_member(stream, header, long_name or header.name, budget)
        long_name, extended = None, 0
    _check_end(stream, budget, long_name)


def _read_member(stream: Stream, header: _Header, name: str, budget: Budget) -> Iterator[Member]:
    is_folder = header.kind == _FOLDER or (header.kind in _FILE and name.endswith("/"))
    if header.kind not in (*_FILE, _FOLDER):
        raise ArchiveUnsafeMember(member=name, kind=_KINDS.get(header.kind, f"member of type {header.kind!r}"))
    if is_folder and header.size:
        raise ArchiveCorrupt(member=name, reason="a folder with bytes")
    path = budget.claim_path(name, is_folder)
    if is_folder:
        return
    budget.check_size(path, header.size)
    yield Member(path, header.size, _read_chunks(stream, path, header.size))


def _read_chunks(stream: Stream, path: str, size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = stream.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise ArchiveCorrupt(member=path, reason="the archive ends inside")
        left -= len(chunk)
        yield chunk
    stream.read_exactly(-size % _BLOCK, path)


def _read_header_block(stream: Stream) -> bytes | None:
    block = stream.read_exactly(_BLOCK, "header")
    return block if block.strip(b"\0") else None


def has_valid_checksum(block: bytes) -> bool:
    """Tell whether 512 bytes are a tar header: their sum, with blanks for the checksum itself, is the checksum."""
    said = block[148:156].replace(b"\0", b" ").split()
    plain = block[:148] + b" " * 8 + block[156:]
    # Historic writers summed signed bytes.
    sums = (sum(plain), sum(plain) - 256 * sum(byte > 127 for byte in plain))
    return len(said) >= 1 and _is_octal(said[0]) and int(said[0], 8) in sums


def _is_octal(digits: bytes) -> bool:
    return bool(digits) and not digits.strip(b"01234567")


def _parse_header(block: bytes) -> _Header:
    if not has_valid_checksum(block):
        raise ArchiveProblem(reason="a tar header is damaged")
    name = _decode(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_decode(block[345:500])}/{name}"
    return _Header(name, _parse_size(block[124:136], name), block[156:157])


def _parse_size(field: bytes, name: str) -> int:
    if field[0] == 0x80:  # GNU's binary numbers; 0xFF would be a negative one
        return int.from_bytes(field[1:], "big")
    digits = field.replace(b"\0", b" ").strip()
    if digits and not _is_octal(digits):
        raise ArchiveProblem(reason=f"the size of member {name} is no number")
    return int(digits or b"0", 8)


def _decode(raw: bytes) -> str:
    raw = raw.split(b"\0", 1)[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _read_long_name(stream: Stream, header: _Header) -> str | None:
    if header.size > _MAX_PAX_BYTES:
        raise ArchiveProblem(reason="an extended tar header is too large")
    raw = stream.read_exactly(header.size, "extended header")
    stream.read_exactly(-header.size % _BLOCK, "extended header")
    if header.kind == _LONG_NAME:
        return _decode(raw)
    return _parse_pax(raw, is_global=header.kind == _GLOBAL_PAX)


def _parse_pax(raw: bytes, is_global: bool) -> str | None:
    path = None
    while raw:
        digits, blank, _ = raw.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        if length > len(raw):
            raise ArchiveProblem(reason="an extended tar header is cut off")
        record, raw = raw[len(digits) + 1 : length], raw[length:]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not (blank and equals and record.endswith(b"\n")):
            raise ArchiveProblem(reason="an extended tar header is damaged")
        if key == b"path" and path is None and not is_global and b"\0" not in value:
            path = _decode(value)
        elif key.decode("latin-1") not in _PAX_IGNORED and not _decode(key).startswith(_PAX_IGNORED_PREFIXES):
            raise ArchiveUnsafeMember(member=path or "?", kind=f"member with the extended header {_decode(key)}")
    return path


def _check_end(stream: Stream, budget: Budget, long_name: str | None) -> None:
    if long_name is not None:
        raise ArchiveProblem(reason="it ends after a member's long name")
    if not budget.members:
        raise ArchiveProblem(reason="it has no members")
    # Tar pads its end with zeros to 10 KiB or more; whatever else stands there only some readers would see.
    while chunk := stream.read(CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise ArchiveProblem(reason="bytes stand behind the end of the tar")
