import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import errors
from app.inputs.limits import InputLimits
from tests.inputs.archives import SMALL, ZipEntry, build_zip, end_record, read_all, zip_bytes

FILES = {"a.png": b"first" * 20, "folder/b.png": bytes(range(256)) * 8, "empty.png": b""}


def write(folder: Path, content: bytes) -> Path:
    path = folder / "upload"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_what_zipfile_writes(tmp_path: Path, method: int) -> None:
    assert read_all(write(tmp_path, zip_bytes(FILES, method))) == FILES


def test_reads_streamed_zips_with_descriptors_and_zip64(tmp_path: Path) -> None:
    class Unseekable:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, content: bytes) -> int:
            return self.file.write(content)

        def flush(self) -> None:
            self.file.flush()

    path = tmp_path / "upload"
    target = Unseekable(path)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("a.png", FILES["a.png"])
        with archive.open("b.png", "w", force_zip64=True) as member:
            member.write(b"wide sizes")
    target.file.close()
    assert read_all(path) == {"a.png": FILES["a.png"], "b.png": b"wide sizes"}


def test_folders_comments_and_leading_dots_are_harmless(tmp_path: Path) -> None:
    entries = (ZipEntry(b"d/", b"", mode=stat.S_IFDIR | 0o755), ZipEntry(b"./d/a.png", mode=stat.S_IFREG | 0o644))
    assert read_all(write(tmp_path, build_zip(*entries, comment=b"made by hand"))) == {"d/a.png": b"hello"}


def test_names_in_three_encodings(tmp_path: Path) -> None:
    unicode_path = struct.pack("<BL", 1, zlib.crc32(b"\x81.png")) + "ü.png".encode()
    extra = struct.pack("<2H", 0x7075, len(unicode_path)) + unicode_path
    entries = (
        ZipEntry("ä.png".encode(), flags=1 << 11),
        ZipEntry("ö.png".encode()),
        ZipEntry(b"\x84x.png"),
        ZipEntry(b"\x81.png", extra=extra),
    )
    assert list(read_all(write(tmp_path, build_zip(*entries)))) == ["ä.png", "ö.png", "äx.png", "ü.png"]


GOOD = ZipEntry()
ENCRYPTED = ZipEntry(flags=1)
DESCRIPTOR = struct.pack("<4s3L", b"PK\x07\x08", zlib.crc32(b"hello"), 5, 5)
BAD_DESCRIPTOR = struct.pack("<4s3L", b"PK\x07\x08", 7, 5, 5)
ZEROS = {"checksum": 0, "size": 0, "packed": b""}
BACKWARDS = build_zip(GOOD, ZipEntry(b"b.png"))

REFUSED = {
    "local name differs": (errors.ArchiveAmbiguous, build_zip(ZipEntry(local={"name": b"b.png"}))),
    "local size differs": (errors.ArchiveAmbiguous, build_zip(ZipEntry(local={"size": 4}))),
    "local checksum differs": (errors.ArchiveAmbiguous, build_zip(ZipEntry(local={"checksum": 4}))),
    "local method differs": (errors.ArchiveAmbiguous, build_zip(ZipEntry(local={"method": 8}))),
    "local flags differ": (errors.ArchiveAmbiguous, build_zip(ZipEntry(local={"flags": 1 << 11}))),
    "descriptor lies": (
        errors.ArchiveAmbiguous,
        build_zip(ZipEntry(flags=8, local=ZEROS, descriptor=BAD_DESCRIPTOR)),
    ),
    "descriptor missing": (errors.ArchiveAmbiguous, build_zip(ZipEntry(flags=8, local=ZEROS))),
    "prefix": (errors.ArchiveAmbiguous, b"#!/bin/sh\n" + build_zip(GOOD)),
    "suffix": (errors.ArchiveAmbiguous, build_zip(GOOD) + b"more"),
    "bytes between": (errors.ArchiveAmbiguous, build_zip(GOOD, between=b"hidden")),
    "hidden member": (errors.ArchiveAmbiguous, build_zip(GOOD, between=ZipEntry(b"b.png").local_header())),
    "two end records": (errors.ArchiveAmbiguous, build_zip(GOOD, comment=end_record(0, 0, 0))),
    "two archives": (errors.ArchiveAmbiguous, build_zip(GOOD) + build_zip(GOOD)),
    "wrong count": (errors.ArchiveAmbiguous, BACKWARDS[:-22] + end_record(1, 102, 70)),
    "zip64 end missing": (errors.ArchiveAmbiguous, build_zip(GOOD)[:-22] + end_record(0xFFFF, 51, 40)),
    "zip64 sizes missing": (errors.ArchiveAmbiguous, build_zip(ZipEntry(size=0xFFFFFFFF))),
    "extra too short": (errors.ArchiveAmbiguous, build_zip(ZipEntry(extra=b"abc"))),
    "second name": (
        errors.ArchiveAmbiguous,
        build_zip(ZipEntry(extra=struct.pack("<2HBL", 0x7075, 10, 1, zlib.crc32(b"a.png")) + b"b.png")),
    ),
    "name not UTF-8": (errors.ArchiveAmbiguous, build_zip(ZipEntry(b"\xff.png", flags=1 << 11))),
    "folder with bytes": (errors.ArchiveAmbiguous, build_zip(ZipEntry(b"a/"))),
    "file and folder": (errors.ArchiveAmbiguous, build_zip(ZipEntry(mode=stat.S_IFDIR))),
    "encrypted": (errors.ArchiveUnsupported, build_zip(ENCRYPTED)),
    "bzip2": (errors.ArchiveUnsupported, build_zip(ZipEntry(method=12))),
    "lzma": (errors.ArchiveUnsupported, build_zip(ZipEntry(method=14))),
    "zstd": (errors.ArchiveUnsupported, build_zip(ZipEntry(method=93))),
    "checksum": (errors.ArchiveCorrupt, build_zip(ZipEntry(checksum=7))),
    "no deflate": (errors.ArchiveCorrupt, build_zip(ZipEntry(method=8, packed=b"\xff\xff\xff"))),
    "cut deflate": (errors.ArchiveCorrupt, build_zip(ZipEntry(method=8, packed=b"\x4b"))),
    "longer than said": (errors.ArchiveCorrupt, build_zip(ZipEntry(content=b"x" * 99, method=8, size=3))),
    "shorter than said": (errors.ArchiveCorrupt, build_zip(ZipEntry(size=99))),
    "symlink": (errors.ArchiveUnsafeMember, build_zip(ZipEntry(mode=stat.S_IFLNK | 0o777))),
    "FIFO": (errors.ArchiveUnsafeMember, build_zip(ZipEntry(mode=stat.S_IFIFO))),
    "device": (errors.ArchiveUnsafeMember, build_zip(ZipEntry(mode=stat.S_IFCHR))),
    "twice": (errors.ArchiveDuplicateName, build_zip(GOOD, GOOD)),
    "twice after ./": (errors.ArchiveDuplicateName, build_zip(GOOD, ZipEntry(b"./a.png"))),
    "twice in NFC": (
        errors.ArchiveDuplicateName,
        build_zip(ZipEntry("\u00e9.png".encode()), ZipEntry("e\u0301.png".encode())),
    ),
    "climbs": (errors.ArchiveUnsafePath, build_zip(ZipEntry(b"../a.png"))),
    "NUL": (errors.ArchiveUnsafePath, build_zip(ZipEntry(b"a.png\0.txt"))),
    "too many": (errors.ArchiveTooManyEntries, build_zip(*(ZipEntry(b"%d" % n) for n in range(51)))),
    "empty archive": (errors.ArchiveProblem, end_record(0, 0, 0)),
    "no bytes": (errors.ArchiveProblem, b""),
    "text": (errors.ArchiveProblem, b"no archive at all" * 50),
    "directory claims too much": (errors.ArchiveAmbiguous, build_zip(GOOD)[:-22] + end_record(1, 1 << 31, 40)),
    "member too large": (errors.ArchiveTooLarge, build_zip(ZipEntry(content=bytes((1 << 20) + 1)))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path: Path, case: str) -> None:
    kind, content = REFUSED[case]
    with pytest.raises(kind) as caught:
        read_all(write(tmp_path, content))
    assert caught.type is kind, caught.value.detail


def test_descriptors_with_and_without_signature_are_read(tmp_path: Path) -> None:
    for descriptor in (DESCRIPTOR, DESCRIPTOR[4:]):
        content = build_zip(ZipEntry(flags=8, local=ZEROS, descriptor=descriptor))
        assert read_all(write(tmp_path, content)) == {"a.png": b"hello"}


def overlapping_zip(count: int, megabytes: int) -> bytes:
    """One deflated member that `count` headers of the central directory claim (HAZARDS, appendix A, A2)."""
    entry = ZipEntry(b"0000.png", bytes(megabytes << 20), method=8)
    packed = entry.packed_bytes()
    body = entry.local_header()
    directory = b"".join(
        ZipEntry(b"%04d.png" % n, b"", method=8, packed=packed, checksum=0, size=megabytes << 20).central_header(0)
        for n in range(count)
    )
    return body + directory + end_record(count, len(directory), len(body))


def test_overlapping_members_are_refused_before_anything_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = overlapping_zip(1000, 16)
    assert len(bomb) < 80_000
    inflated: list[int] = []
    monkeypatch.setattr("app.inputs.zips.zlib.decompressobj", inflated.append)
    with pytest.raises(errors.ArchiveAmbiguous, match="overlaps"):
        read_all(write(tmp_path, bomb), InputLimits())
    assert not inflated


def test_flat_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    bomb = build_zip(*(ZipEntry(b"%d.png" % n, bytes(1 << 20), method=8) for n in range(3)))
    with pytest.raises(errors.ArchiveRatioExceeded):
        read_all(write(tmp_path, bomb))


def test_limits_name_what_they_refuse(tmp_path: Path) -> None:
    limits = SMALL.model_copy(update={"archive_bytes": 8})
    with pytest.raises(errors.ArchiveTooLarge) as caught:
        read_all(write(tmp_path, build_zip(GOOD, ZipEntry(b"b.png"))), limits)
    assert caught.value.facts["limit_bytes"] == 8


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = zip_bytes(FILES)
    for length in range(len(whole)):
        with pytest.raises(errors.ArchiveProblem):
            read_all(write(tmp_path, whole[:length]))


WHOLE = zip_bytes({name: content[:60] for name, content in FILES.items()})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_no_content(tmp_path: Path, place: int, mask: int) -> None:
    changed = bytearray(WHOLE)
    changed[place] ^= mask
    try:
        found = read_all(write(tmp_path, bytes(changed)))
    except errors.ArchiveProblem:
        return
    assert sorted(found.values()) == sorted(content[:60] for content in FILES.values())
