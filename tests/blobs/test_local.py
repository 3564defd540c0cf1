"""Blobs in a folder: durable, checked, never half there."""

import hashlib
import os
from pathlib import Path

import pytest

from app.blobs.local import LocalBlobs
from app.blobs.open import open_blobs
from app.errors import BlobCorrupt, InsufficientStorage, StorageUnavailable


def staged(tmp_path: Path, content: bytes) -> tuple[Path, str]:
    path = tmp_path / "staged"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_put_and_read_back(tmp_path: Path) -> None:
    blobs = open_blobs((tmp_path / "blobs").as_uri(), tmp_path / "cache")
    content = os.urandom(3 << 20)
    digest = hashlib.sha256(content).hexdigest()
    for _ in range(2):
        path, _ = staged(tmp_path, content)
        blobs.put(path, digest)
        assert not path.exists()
    assert blobs.size(digest) == len(content)
    assert b"".join(blobs.read(digest, 0, len(content))) == content
    assert b"".join(blobs.read(digest, 5, 2 << 20)) == content[5 : 2 << 20]
    assert blobs.fetch(digest).read_bytes() == content


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    path, digest = staged(tmp_path, b"some bytes")
    blobs.put(path, digest)
    (stored,) = (path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    stored.chmod(0o600)
    stored.write_bytes(b"some bytez")
    with pytest.raises(BlobCorrupt):
        blobs.fetch(digest)
    with pytest.raises(BlobCorrupt):
        blobs.size("0" * 64)


_FAULTS = [(28, InsufficientStorage), (122, InsufficientStorage), (5, StorageUnavailable)]


@pytest.mark.parametrize(("number", "problem"), _FAULTS)
def test_disk_faults_are_problems_and_store_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, problem: type[Exception]
) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    path, digest = staged(tmp_path, b"x")

    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(problem):
        blobs.put(path, digest)
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_bytes_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")  # noqa: PTH112
        real_fsync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    path, digest = staged(tmp_path, b"x")
    LocalBlobs(tmp_path / "blobs").put(path, digest)
    assert steps[:3] == ["sync file", "rename", "sync folder"]
