"""A file or folder on its way to the server: digest first, then the bytes, with progress."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.client.packing import file_chunks, list_folder, tar_chunks, tar_size
from app.client.problems import LocalProblem
from app.spec import ID_PATTERN

#: Called with (bytes so far, bytes in all); a try after a failed one starts at 0 again.
Progress = Callable[[int, int], None]

_ARCHIVE_SUFFIXES = (".tar.gz", ".tar.zst", ".tgz", ".tar", ".zip", ".onnx")


def ignore_progress(_done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Upload:
    """Bytes that can be read as often as needed: `chunks()` yields `size` bytes."""

    chunks: Callable[[], Iterable[bytes]]
    size: int

    def digest(self) -> str:
        """Return the sha256 hex of the bytes, which reads them once."""
        sha256 = hashlib.sha256()
        for chunk in self.chunks():
            sha256.update(chunk)
        return sha256.hexdigest()

    def headers(self) -> dict[str, str]:
        """Return the headers that let the server check what arrives."""
        return {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(self.size),
            "X-Content-SHA256": self.digest(),
        }

    def with_progress(self, progress: Progress) -> Iterator[bytes]:
        """Yield the bytes and call `progress` after each chunk was taken."""
        done = 0
        progress(0, self.size)
        for chunk in self.chunks():
            yield chunk
            done += len(chunk)
            progress(done, self.size)


def open_upload(path: Path) -> Upload:
    """Return the bytes of a file, or of a folder as a tar. Raises LocalProblem if there is none."""
    if path.is_dir():
        files = list_folder(path)
        return Upload(lambda: tar_chunks(files), tar_size(files))
    try:
        size = path.stat().st_size
    except OSError as error:
        raise LocalProblem(f"Cannot read {path}: {error.strerror}.") from error
    return Upload(lambda: file_chunks(path, size), size)


def name_from_path(path: Path) -> str:
    """Return a name for a model or dataset made from a file's or folder's name.

    Raises LocalProblem when no letter or digit of it may stand in a name.
    """
    stem = path.resolve().name.lower()
    stem = next((stem.removesuffix(suffix) for suffix in _ARCHIVE_SUFFIXES if stem.endswith(suffix)), stem)
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem)
    name = kept.lstrip("._-")[:100]
    if not name:
        raise LocalProblem(f"{path} makes no name of a-z 0-9 . _ -; give one with --name.")
    return f"x-{name}"[:100] if ID_PATTERN.fullmatch(name) else name
