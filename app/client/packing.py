"""A folder as a tar, packed while it is sent: the same bytes each time, a megabyte in memory at most."""

import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.client.problems import LocalProblem

_CHUNK_BYTES = 1 << 20
_END_BYTES = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class PackedFile:
    """A file of the folder: its path there with /, and its size when it was listed."""

    path: Path
    name: str
    size: int


def list_folder(folder: Path) -> list[PackedFile]:
    """Return the files under folder in the order of their paths, hidden ones left out.

    A link to a file counts as that file. Raises LocalProblem for an empty folder, for a link to a folder, which could
    lead anywhere and round in circles, and for anything else that is no plain file.
    """
    try:
        files = [_packed_file(folder, path) for path in sorted(_walk(folder), key=lambda path: path.as_posix())]
    except OSError as error:
        raise LocalProblem(f"Cannot read {error.filename or folder}: {error.strerror}.") from error
    if not files:
        raise LocalProblem(f"{folder} has no files in it. Name a folder of images.")
    return files


def tar_size(files: list[PackedFile]) -> int:
    """Return how many bytes `tar_chunks` yields for the files."""
    return sum(len(_header(file)) + file.size + _padding(file.size) for file in files) + _END_BYTES


def tar_chunks(files: list[PackedFile]) -> Iterator[bytes]:
    """Yield a tar of the files, in their order, with no owner and no time. Raises LocalProblem if one changed."""
    for file in files:
        yield _header(file)
        yield from file_chunks(file.path, file.size)
        yield bytes(_padding(file.size))
    yield bytes(_END_BYTES)


def file_chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield the file's bytes. Raises LocalProblem unless they are `size` bytes."""
    left = size
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
    except OSError as error:
        raise LocalProblem(f"Cannot read {path}: {error.strerror}.") from error
    if left:
        raise LocalProblem(f"{path} changed while it was sent. Send it again.")


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.is_symlink():
            raise LocalProblem(f"{path} is a link to a folder. Replace it by the folder, or name that one.")
        else:
            yield from _walk(path)


def _packed_file(folder: Path, path: Path) -> PackedFile:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LocalProblem(f"{path} is no plain file. Take it out of the folder.")
    name = path.relative_to(folder).as_posix()
    if not name.isprintable():
        raise LocalProblem(f"{str(path)!a} has a name that cannot be sent. Rename it.")
    return PackedFile(path, name, status.st_size)


def _header(file: PackedFile) -> bytes:
    member = tarfile.TarInfo(file.name)
    member.size = file.size
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE
