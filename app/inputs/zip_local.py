"""A zip's local header: it must say what the central directory says, and its bytes end where the next begin."""

import struct
from typing import BinaryIO

from app.errors import ArchiveAmbiguous
from app.inputs.zip_directory import HAS_DESCRIPTOR, Entry, parse_extra, resolve_sizes

_LOCAL = struct.Struct("<4s5H3L2H")
#: Encrypted, descriptor, patch data, strongly encrypted, UTF-8, masked: flags that change how bytes are read.
_MEANINGFUL_FLAGS = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 11 | 1 << 13


def check_local_header(file: BinaryIO, entry: Entry, end: int) -> int:
    """Return the offset of the entry's packed bytes, which with their descriptor must end at `end`.

    Raises ArchiveAmbiguous for any disagreement with the central directory.
    """
    file.seek(entry.offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise ArchiveAmbiguous(reason=f"member {entry.path} has no header of its own")
    fields = _LOCAL.unpack(head)
    raw_name, raw_extra = file.read(fields[9]), file.read(fields[10])
    if raw_name != entry.raw_name or fields[3] != entry.method or (fields[2] ^ entry.flags) & _MEANINGFUL_FLAGS:
        raise ArchiveAmbiguous(reason=f"the two headers of member {entry.path} disagree")
    _check_sizes(entry, fields, parse_extra(raw_extra, raw_name))
    start = entry.offset + _LOCAL.size + fields[9] + fields[10]
    _check_end(file, entry, start, end)
    return start


def _check_sizes(entry: Entry, fields: tuple, extra: dict[int, bytes]) -> None:
    size, packed_size = resolve_sizes(entry.path, extra, (fields[8], fields[7]))
    said = (fields[6], packed_size, size)
    known = (entry.checksum, entry.packed_size, entry.size)
    # With a descriptor the writer did not know them yet, and wrote zeros.
    is_open = bool(entry.flags & HAS_DESCRIPTOR)
    if any(value != truth and not (is_open and value == 0) for value, truth in zip(said, known, strict=True)):
        raise ArchiveAmbiguous(reason=f"the two headers of member {entry.path} disagree on its size or checksum")


def _check_end(file: BinaryIO, entry: Entry, start: int, end: int) -> None:
    gap = end - start - entry.packed_size
    if not entry.flags & HAS_DESCRIPTOR:
        if gap:
            raise ArchiveAmbiguous(reason=f"bytes overlap or stand hidden behind member {entry.path}")
        return
    known = (entry.checksum, entry.packed_size, entry.size)
    allowed = [sign + struct.pack(f"<L2{code}", *known) for sign in (b"PK\x07\x08", b"") for code in _widths(entry)]
    file.seek(start + entry.packed_size)
    if gap not in (12, 16, 20, 24) or file.read(gap) not in allowed:
        raise ArchiveAmbiguous(reason=f"the descriptor behind member {entry.path} disagrees with its header")


def _widths(entry: Entry) -> str:
    return "LQ" if max(entry.size, entry.packed_size) <= 0xFFFFFFFF else "Q"
