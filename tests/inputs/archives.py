"""Archives made by hand, header by header, so that each lie can be told on purpose."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.inputs.archive import read_archive
from app.inputs.limits import InputLimits

SMALL = InputLimits(
    archive_members=50,
    member_bytes=1 << 20,
    archive_bytes=4 << 20,
    archive_ratio=100,
    archive_ratio_free_bytes=1 << 16,
    image_pixels=1_000_000,
)


def read_all(path: Path, limits: InputLimits = SMALL) -> dict[str, bytes]:
    return {member.path: member.read() for member in read_archive(path, limits)}


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_bytes(files: Mapping[str, bytes], style: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_member(kind: bytes, name: str = "a", content: bytes = b"", size: bytes | None = None) -> bytes:
    """One ustar header of any type, with its bytes and without the archive's end."""
    field_size = size or b"%011o\0" % len(content)
    head = name.encode().ljust(100, b"\0") + b"0000644\0" * 1 + b"0000000\0" * 2 + field_size + b"00000000000\0"
    tail = kind + b"target".ljust(100, b"\0") + b"ustar\x0000" + bytes(247)
    block = head + b" " * 8 + tail
    block = head + b"%06o\0 " % sum(block) + tail
    return block + content + bytes(-len(content) % 512)


@dataclass(frozen=True)
class ZipEntry:
    """One member with both of its headers; `local` holds what the local one says otherwise."""

    name: bytes = b"a.png"
    content: bytes = b"hello"
    method: int = 0
    flags: int = 0
    mode: int = 0
    extra: bytes = b""
    checksum: int | None = None
    size: int | None = None
    packed: bytes | None = None
    descriptor: bytes = b""
    local: dict[str, object] = field(default_factory=dict)

    def packed_bytes(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method != 8:
            return self.content
        deflater = zlib.compressobj(wbits=-15)
        return deflater.compress(self.content) + deflater.flush()

    def sizes(self) -> tuple[int, int, int]:
        checksum = zlib.crc32(self.content) if self.checksum is None else self.checksum
        return checksum, len(self.packed_bytes()), len(self.content) if self.size is None else self.size

    def local_header(self) -> bytes:
        said = replace(self, **self.local) if self.local else self  # type: ignore[arg-type]
        packed = self.packed_bytes()
        sizes = struct.pack("<3L", *said.sizes())
        head = struct.pack("<4s5H", b"PK\x03\x04", 20, said.flags, said.method, 0, 0) + sizes
        lengths = struct.pack("<2H", len(said.name), len(said.extra))
        return head + lengths + said.name + said.extra + packed + self.descriptor

    def central_header(self, offset: int) -> bytes:
        head = struct.pack("<4s6H", b"PK\x01\x02", 20, 20, self.flags, self.method, 0, 0)
        sizes = struct.pack("<3L", *self.sizes())
        tail = struct.pack("<5H2L", len(self.name), len(self.extra), 0, 0, 0, self.mode << 16, offset)
        return head + sizes + tail + self.name + self.extra


def build_zip(*entries: ZipEntry, comment: bytes = b"", between: bytes = b"") -> bytes:
    body, directory = b"", b""
    for entry in entries:
        directory += entry.central_header(len(body))
        body += entry.local_header()
    body += between
    return body + directory + end_record(len(entries), len(directory), len(body), comment)


def end_record(count: int, size: int, offset: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, offset, len(comment)) + comment
