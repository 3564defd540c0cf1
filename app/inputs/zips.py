"""Zip archives: every header is checked against every other before the first byte is inflated.

Layout and names follow PKWARE's APPNOTE 6.3.10. The archive must be exactly: local headers with their bytes, one after
another from offset 0, then the central directory, then its end. Whatever lies between, before or behind could be
seen by one reader and not by another (HAZARDS A2, A9).
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from app.errors import ArchiveAmbiguous, ArchiveCorrupt, ArchiveProblem
from app.inputs.budget import CHUNK_BYTES, Budget, Member, naming
from app.inputs.zip_directory import DEFLATED, Entry, read_directory
from app.inputs.zip_local import check_local_header


def read_zip(file: BinaryIO, budget: Budget) -> Iterator[Member]:
    """Yield the plain files of a zip in the order of their bytes.

    Raises ArchiveAmbiguous, ArchiveUnsupported, ArchiveUnsafeMember and the rest before anything is inflated, except
    ArchiveCorrupt for bytes that do not inflate to their size and checksum.
    """
    entries, directory_start = read_directory(file, budget)
    plan = list(_plan(file, sorted(entries, key=lambda entry: entry.offset), directory_start))
    files = [(start, entry) for start, entry in plan if not entry.is_folder]
    budget.check_ratio(sum(entry.size for _, entry in files))
    for _, entry in files:
        budget.check_size(entry.path, entry.size)
    for start, entry in files:
        yield Member(entry.path, entry.size, _read_entry(file, start, entry, budget))


def _plan(file: BinaryIO, entries: list[Entry], directory_start: int) -> Iterator[tuple[int, Entry]]:
    if not entries:
        raise ArchiveProblem(reason="it has no members")
    if entries[0].offset != 0:
        raise ArchiveAmbiguous(reason="bytes stand before the first member")
    # The cheap test for overlaps comes first: it needs no local header (63 kB can claim 15 GiB this way).
    ends = [entry.offset for entry in entries[1:]] + [directory_start]
    for entry, end in zip(entries, ends, strict=True):
        if entry.offset + 30 + len(entry.raw_name) + entry.packed_size > end:
            raise ArchiveAmbiguous(reason=f"member {entry.path} overlaps the next")
    for entry, end in zip(entries, ends, strict=True):
        yield check_local_header(file, entry, end), entry


def _read_entry(file: BinaryIO, start: int, entry: Entry, budget: Budget) -> Iterator[bytes]:
    size = checksum = 0
    file.seek(start)
    for chunk in _inflate(file, entry) if entry.method == DEFLATED else _copy(file, entry):
        size += len(chunk)
        checksum = zlib.crc32(chunk, checksum)
        if size > entry.size:
            raise ArchiveCorrupt(member=entry.path, reason="it holds more bytes than it says")
        budget.count_bytes(len(chunk))
        yield chunk
    if size != entry.size or checksum != entry.checksum:
        raise ArchiveCorrupt(member=entry.path, reason="size or checksum differ from its header")


def _copy(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    left = entry.packed_size
    while left:
        chunk = file.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise ArchiveCorrupt(member=entry.path, reason="the archive ends inside")
        left -= len(chunk)
        yield chunk


def _inflate(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with naming(entry.path, zlib.error):
        for packed in _copy(file, entry):
            while packed and not inflater.eof:
                yield inflater.decompress(packed, CHUNK_BYTES)
                packed = inflater.unconsumed_tail
    if not inflater.eof or inflater.unused_data:
        raise ArchiveCorrupt(member=entry.path, reason="its deflated bytes end too early or too late")
