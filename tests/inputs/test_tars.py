import bz2
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from backports import zstd

from app import errors
from tests.inputs.archives import SMALL, ZipEntry, build_zip, read_all, tar_bytes, tar_member, zip_bytes

FILES = {"a.png": b"first" * 200, "folder/b.png": bytes(range(256)) * 8, "empty.png": b""}
LONG = {"long/" + "folder/" * 30 + "a.png": b"far down", "ü" * 60 + ".png": b"not ASCII"}
END = bytes(1024)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "upload"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress])
def test_reads_what_tarfile_writes(tmp_path: Path, style: int, pack: type[bytes]) -> None:
    assert read_all(write(tmp_path, pack(tar_bytes(FILES, style)))) == FILES


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_long_names(tmp_path: Path, style: int) -> None:
    assert read_all(write(tmp_path, tar_bytes(LONG, style))) == LONG


def test_reads_a_folder_packed_with_dot(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in (".", "./d"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        info = tarfile.TarInfo("./d/a.png")
        info.size = 3
        info.pax_headers = {"mtime": "1.5", "LIBARCHIVE.xattr.x": "y"}
        archive.addfile(info, io.BytesIO(b"abc"))
    assert read_all(write(tmp_path, buffer.getvalue())) == {"d/a.png": b"abc"}


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_reads_several_compressed_pieces(tmp_path: Path, pack: type[bytes]) -> None:
    plain = tar_bytes(FILES)
    pieces = b"".join(pack(plain[start : start + 700]) for start in range(0, len(plain), 700))
    assert read_all(write(tmp_path, pieces)) == FILES


@pytest.mark.parametrize("flag", range(256))
def test_of_all_types_only_files_and_folders_pass(tmp_path: Path, flag: int) -> None:
    kind = bytes([flag])
    path = write(tmp_path, tar_member(kind) + tar_member(b"0", "b.png", b"hello") + END)
    if kind in b"\x000":
        assert read_all(path) == {"a": b"", "b.png": b"hello"}
    elif kind in b"5gxL":  # folders, and headers that say nothing here
        assert read_all(path) == {"b.png": b"hello"}
    else:
        with pytest.raises(errors.ArchiveUnsafeMember):
            read_all(path)


def pax(record: bytes) -> bytes:
    length = len(record) + 3
    length += len(str(length)) - 1
    body = b"%d %s\n" % (len(record) + 2 + len(str(length)), record)
    return tar_member(b"x", "pax", body)


GOOD = tar_member(b"0", "a.png", b"hello")
REFUSED = {
    "symlink chain": (errors.ArchiveUnsafeMember, tar_member(b"5", "d" * 90) + tar_member(b"2", "l") + GOOD + END),
    "hard link": (errors.ArchiveUnsafeMember, tar_member(b"1", "l") + END),
    "pax size": (errors.ArchiveUnsafeMember, pax(b"size=3") + GOOD + END),
    "pax linkpath": (errors.ArchiveUnsafeMember, pax(b"linkpath=x") + GOOD + END),
    "pax sparse": (errors.ArchiveUnsafeMember, pax(b"GNU.sparse.major=1") + GOOD + END),
    "pax path climbs": (errors.ArchiveUnsafePath, pax(b"path=../x") + GOOD + END),
    "pax path for all": (errors.ArchiveUnsafeMember, tar_member(b"g", "g", b"12 path=abc\n") + GOOD + END),
    "two long names": (errors.ArchiveProblem, pax(b"path=x") + pax(b"path=y") + GOOD + END),
    "long name, no member": (errors.ArchiveProblem, GOOD + pax(b"path=x") + END),
    "broken pax": (errors.ArchiveProblem, tar_member(b"x", "p", b"99 path=abc\n") + GOOD + END),
    "negative size": (errors.ArchiveProblem, tar_member(b"0", "a", size=b"\xff" * 12) + END),
    "minus size": (errors.ArchiveProblem, tar_member(b"0", "a", size=b"-0000000777\0") + END),
    "huge binary size": (errors.ArchiveTooLarge, tar_member(b"0", "a", size=b"\x80" + b"\x7f" * 11) + END),
    "header loop": (errors.ArchiveProblem, GOOD + tar_member(b"0", "b", size=b"\xff" * 11 + b"\0") + END),
    "bad header checksum": (errors.ArchiveProblem, GOOD + GOOD.replace(b"0000644", b"0000645") + END),
    "bytes behind": (errors.ArchiveProblem, GOOD + END + b"hidden"),
    "a zip behind": (errors.ArchiveProblem, GOOD + END + build_zip(ZipEntry())),
    "no end": (errors.ArchiveProblem, GOOD),
    "twice": (errors.ArchiveDuplicateName, GOOD + GOOD + END),
    "file and folder": (errors.ArchiveDuplicateName, GOOD + tar_member(b"5", "a.png") + END),
    "too many": (errors.ArchiveTooManyEntries, b"".join(tar_member(b"5", f"d{n}") for n in range(51)) + END),
    "nothing but zeros": (errors.ArchiveProblem, bytes(10240)),
    "empty gzip": (errors.ArchiveProblem, gzip.compress(b"")),
    "gzip of a zip": (errors.ArchiveProblem, gzip.compress(zip_bytes(FILES))),
    "gzip with bytes behind": (errors.ArchiveProblem, gzip.compress(GOOD + END) + b"junk"),
    "gzip cut": (errors.ArchiveProblem, gzip.compress(GOOD + END)[:-4]),
    "gzip checksum": (errors.ArchiveProblem, gzip.compress(GOOD + END)[:-8] + bytes(8)),
    "zstd cut": (errors.ArchiveProblem, zstd.compress(GOOD + END)[:-4]),
    "bzip2": (errors.ArchiveProblem, bz2.compress(GOOD + END)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path: Path, case: str) -> None:
    kind, content = REFUSED[case]
    with pytest.raises(kind) as caught:
        read_all(write(tmp_path, content))
    assert caught.type is kind, caught.value.detail


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_bombs_stop_at_the_limit(tmp_path: Path, pack: type[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    members = b"".join(tar_member(b"0", f"{n}.png", bytes(1 << 20)) for n in range(8))
    path = write(tmp_path, pack(members + END))
    with pytest.raises(errors.ArchiveRatioExceeded):
        read_all(path)
    # One zero member behind another in the padding, which no header announces.
    path = write(tmp_path, pack(GOOD + bytes(8 << 20)))
    with pytest.raises(errors.ArchiveRatioExceeded):
        read_all(path)


def test_many_tiny_gzip_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inputs.streams._MAX_FRAMES", 100)
    path = write(tmp_path, gzip.compress(GOOD) + gzip.compress(b"") * 200 + gzip.compress(END))
    with pytest.raises(errors.ArchiveProblem, match="too many compressed pieces"):
        read_all(path)


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_every_truncation_is_refused(tmp_path: Path, pack: type[bytes]) -> None:
    whole = pack(tar_bytes({"a.png": b"hello", "b.png": b"world"}))
    for length in range(len(whole)):
        with pytest.raises(errors.ArchiveProblem):
            read_all(write(tmp_path, whole[:length]))


def test_member_limit_is_checked_from_its_header(tmp_path: Path) -> None:
    limits = SMALL.model_copy(update={"member_bytes": 4})
    with pytest.raises(errors.ArchiveTooLarge):
        read_all(write(tmp_path, GOOD + END), limits)
