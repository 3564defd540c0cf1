"""A folder as a tar, and the names that uploads get."""

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from app.client.packing import list_folder, tar_chunks, tar_size
from app.client.problems import LocalProblem
from app.client.upload import name_from_path, open_upload
from app.spec import check_name


def make_folder(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        found = [(member.name, archive.extractfile(member)) for member in archive]
    return {name: stream.read() for name, stream in found if stream is not None}


def test_a_folder_becomes_a_sorted_tar_of_the_promised_size(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", b__2_dot_png=b"x" * 513, a__9_dot_png=b"", b__1_dot_png=b"y" * 512)
    files = list_folder(folder)
    content = b"".join(tar_chunks(files))
    assert list(members(content).items()) == [("a/9.png", b""), ("b/1.png", b"y" * 512), ("b/2.png", b"x" * 513)]
    assert len(content) == tar_size(files)


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "first", a=b"1", b=b"2")
    second = make_folder(tmp_path / "second", b=b"2", a=b"1")
    os.utime(second / "a", (1, 1))
    (second / "b").chmod(0o600)
    assert open_upload(first).digest() == open_upload(second).digest()


def test_long_and_foreign_names_survive(tmp_path: Path) -> None:
    name = "ä" * 100 + "/" + "b" * 200 + ".png"
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"1")
    files = list_folder(tmp_path)
    content = b"".join(tar_chunks(files))
    assert members(content) == {name: b"1"}
    assert len(content) == tar_size(files)


def test_hidden_files_stay_and_links_to_files_count(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"image")
    folder = make_folder(tmp_path / "d", _dot_DS_Store=b"x", _dot_git__config=b"x")
    (folder / "a.png").symlink_to(outside)
    assert members(b"".join(open_upload(folder).chunks())) == {"a.png": b"image"}


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", a=b"1")
    (folder / "round").symlink_to(folder)
    with pytest.raises(LocalProblem, match="round is a link to a folder"):
        open_upload(folder)


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LocalProblem, match="pipe is no plain file"):
        open_upload(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalProblem, match="no files"):
        open_upload(tmp_path)


@pytest.mark.parametrize("content", [b"", b"1", b"123"])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"12")
    files = list_folder(tmp_path)
    path.write_bytes(content)
    with pytest.raises(LocalProblem, match="changed"):
        list(tar_chunks(files))


def test_a_large_folder_is_never_in_memory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(32 << 20)
    upload = open_upload(tmp_path)
    tracemalloc.start()
    sent = sum(len(chunk) for chunk in upload.with_progress(lambda _done, _total: None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent == upload.size > 64 << 20
    assert peak < 8 << 20


def test_progress_ends_at_the_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    seen: list[tuple[int, int]] = []
    upload = open_upload(tmp_path / "a")
    assert b"".join(upload.with_progress(lambda *told: seen.append(told))) == b"12345"
    assert seen == [(0, 5), (5, 5)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalProblem, match=r"none\.zip"):
        open_upload(tmp_path / "none.zip")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mnist-cnn.onnx", "mnist-cnn"),
        ("Photos 2026.tar.gz", "photos-2026"),
        ("a.b.tar.zst", "a.b"),
        ("_x.zip", "x"),
        ("Größe.onnx", "gr--e"),
        ("n" * 200 + ".zip", "n" * 100),
        ("job_" + "a" * 24 + ".onnx", "x-job_" + "a" * 24),
    ],
)
def test_names_made_from_files_are_valid(file: str, name: str) -> None:
    assert name_from_path(Path(file)) == check_name(name)


def test_a_folder_written_as_dot_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path / "digits")
    assert name_from_path(Path()) == "digits"


def test_a_name_without_any_valid_letter_is_refused() -> None:
    with pytest.raises(LocalProblem, match="--name"):
        name_from_path(Path("___.zip"))
