"""Bytes of a plain, gzip or zstandard file, as a stream that counts what comes out."""

import sys
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from app.errors import ArchiveProblem
from app.inputs.budget import CHUNK_BYTES, Budget

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Frames that each need a fresh decompressor: many tiny ones are work without bytes.
_MAX_FRAMES = 100_000
#: Largest window that zstandard frames may ask memory for, as a power of two; `zstd --ultra -22 --long` makes 2^27.
_MAX_WINDOW_LOG = 27


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def take(self, packed: bytes, limit: int) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...


class _Gzip:
    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inflater.unconsumed_tail and not self._is_full

    def take(self, packed: bytes, limit: int) -> bytes:
        """Return at most limit bytes, of packed and of what was left from before."""
        made = self._inflater.decompress(self._inflater.unconsumed_tail + packed, limit)
        self._is_full = len(made) == limit
        return made


class _Zstandard:
    def __init__(self) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        self._decompressor = zstd.ZstdDecompressor(options=options)

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    @property
    def needs_input(self) -> bool:
        return self._decompressor.needs_input

    def take(self, packed: bytes, limit: int) -> bytes:
        """Return at most limit bytes, of packed and of what was left from before."""
        return self._decompressor.decompress(packed, max_length=limit)


class Stream:
    """What comes out of an archive, in order; every byte is counted in its budget."""

    def __init__(self, source: Callable[[], bytes], budget: Budget) -> None:
        self._source = source
        self._budget = budget
        self._chunk = b""
        self._at = 0

    def read(self, count: int) -> bytes:
        """Return 1 to count bytes, none at the end. Raises ArchiveProblem and what Budget raises."""
        if count and self._at == len(self._chunk):
            self._chunk, self._at = self._source(), 0
            self._budget.count_bytes(len(self._chunk))
        taken = self._chunk[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def read_exactly(self, count: int, what: str) -> bytes:
        """Return count bytes. Raises ArchiveProblem where the archive ends before."""
        taken = b""
        while len(taken) < count:
            chunk = self.read(count - len(taken))
            if not chunk:
                raise ArchiveProblem(reason=f"it is cut off ({what})")
            taken += chunk
        return taken


def open_stream(file: BinaryIO, kind: str, budget: Budget) -> Stream:
    """Return the plain bytes of a tar, gzip or zstd file as a stream."""
    if kind == "tar":
        return Stream(lambda: file.read(CHUNK_BYTES), budget)
    return Stream(_Unpacker(file, _Gzip if kind == "gzip" else _Zstandard).next_chunk, budget)


class _Unpacker:
    def __init__(self, file: BinaryIO, kind: type[_Gzip] | type[_Zstandard]) -> None:
        self._file = file
        self._kind = kind
        self._current: _Decompressor = kind()
        self._frames = 1
        self._packed = b""

    def next_chunk(self) -> bytes:
        try:
            return self._next_chunk()
        except (zlib.error, zstd.ZstdError) as error:
            raise ArchiveProblem(reason=f"its compressed bytes are damaged ({error})") from error

    def _next_chunk(self) -> bytes:
        while True:
            if self._current.eof and not self._begin_frame():
                return b""
            if self._current.needs_input and not self._packed:
                self._packed = self._file.read(CHUNK_BYTES)
                if not self._packed:
                    raise ArchiveProblem(reason="its compressed bytes are cut off")
            packed, self._packed = self._packed, b""
            if made := self._current.take(packed, CHUNK_BYTES):
                return made

    def _begin_frame(self) -> bool:
        # gzip and zstd files may be several frames one behind another (pigz, pzstd); each is checked on its own.
        self._packed = self._current.unused_data + self._packed or self._file.read(CHUNK_BYTES)
        if not self._packed:
            return False
        self._frames += 1
        if self._frames > _MAX_FRAMES:
            raise ArchiveProblem(reason="it is made of too many compressed pieces")
        self._current = self._kind()
        return True
