import gzip
import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app import errors, keys
from app.inputs.dataset import unpack_dataset
from app.inputs.labels import label_counts, labels_from_listing, parse_labels
from app.inputs.limits import InputLimits
from app.inputs.listing import digest_from_listing, merge_listings, select_evenly, spread_order, summary_from_listing
from tests.inputs.archives import SMALL, tar_bytes, zip_bytes
from tests.inputs.pictures import encode, noise, png

FILES = {"b/2.png": png(2), "a/1.png": png(1), "a/0.jpg": encode(noise(), "JPEG")}


def unpack(folder: Path, content: bytes, limits: InputLimits = SMALL) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    paths = {"archive": folder / "upload", "pack": folder / "pack", "listing": folder / "listing.json"}
    paths["archive"].write_bytes(content)
    request = {name: str(path) for name, path in paths.items()} | {"limits": limits.model_dump(mode="json")}
    summary = unpack_dataset(request, lambda _: None)
    return summary, json.loads(paths["listing"].read_text()), paths["pack"].read_bytes()


def test_pack_and_listing_hold_every_image_once(tmp_path: Path) -> None:
    summary, listing, pack = unpack(tmp_path, zip_bytes(FILES))
    assert [file["path"] for file in listing["files"]] == sorted(FILES)
    for file in listing["files"]:
        content = pack[file["offset"] : file["offset"] + file["size"]]
        assert content == FILES[file["path"]]
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert listing["files"][0] | {"sha256": "", "offset": 0, "size": 0} == {
        "path": "a/0.jpg", "width": 30, "height": 20, "format": "JPEG", "mode": "RGB", "sha256": "", "offset": 0, "size": 0,
    }  # fmt: skip
    assert summary["images"] == 3
    assert summary["bytes"] == len(pack)
    assert summary["labels"] == {"a": 2, "b": 1}


def test_digest_is_of_the_images_alone(tmp_path: Path) -> None:
    backwards = dict(reversed(FILES.items()))
    litter = {"__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "Thumbs.db": b"x"}
    archives = [
        zip_bytes(FILES), zip_bytes(backwards, 0), tar_bytes(backwards), gzip.compress(tar_bytes(FILES)),
        zstd.compress(tar_bytes({f"./{name}": content for name, content in FILES.items()})), zip_bytes(FILES | litter),
    ]  # fmt: skip
    summaries = [unpack(tmp_path, archive)[0] for archive in archives]
    expected = keys.dataset_digest((name, hashlib.sha256(content).hexdigest()) for name, content in FILES.items())
    assert {summary["digest"] for summary in summaries} == {expected}
    assert summaries[-1]["ignored"] == 3
    assert unpack(tmp_path, zip_bytes(FILES | {"c.png": png(3)}))[0]["digest"] != expected
    assert unpack(tmp_path, zip_bytes(FILES | {"labels.txt": b"a\nb"}))[0]["digest"] != expected


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    others = {"readme.md": b"hello", "x.svg": b"<svg/>", "x.npy": b"\x93NUMPY", "x.pdf": b"%PDF-1.7", "tiny.jpg": b""}
    others |= {"inner.zip": zip_bytes(FILES), "text.jpg": b"text", "d/labels.txt": b"a"}
    with pytest.raises(errors.ImageUnsupportedFormat) as caught:
        unpack(tmp_path, zip_bytes(FILES | others))
    assert caught.value.facts["count"] == len(others)
    assert set(caught.value.facts["names"]) == set(others)


def test_at_most_100_names_are_listed(tmp_path: Path) -> None:
    limits = SMALL.model_copy(update={"archive_members": 200})
    with pytest.raises(errors.ImageUnsupportedFormat) as caught:
        unpack(tmp_path, zip_bytes({f"{n}.txt": b"x" for n in range(150)}), limits)
    assert (caught.value.facts["count"], len(caught.value.facts["names"])) == (150, 100)


def test_image_with_a_damaged_header_is_kept_for_the_job_to_judge(tmp_path: Path) -> None:
    _, listing, _ = unpack(tmp_path, zip_bytes({"a.png": png()[:20], "b.png": png()}))
    assert [file["format"] for file in listing["files"]] == ["unreadable", "PNG"]


def huge_png(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">2L5B", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1001, 1200, 65_500])
def test_image_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    with pytest.raises(errors.ImageTooLarge) as caught:
        unpack(tmp_path, zip_bytes({"a.png": huge_png(side)}))
    assert caught.value.facts["image"] == "a.png"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_all_formats_are_known_by_their_bytes(tmp_path: Path, kind: str) -> None:
    _, listing, _ = unpack(tmp_path, zip_bytes({"no-extension": encode(noise(), kind)}))
    assert listing["files"][0]["format"] == kind


def test_dataset_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(errors.DatasetEmpty, match="1 system files were ignored"):
        unpack(tmp_path, zip_bytes({".DS_Store": b"x"}))
    with pytest.raises(errors.DatasetEmpty):
        unpack(tmp_path, zip_bytes({"labels.txt": b"a"}))


def test_webp_that_claims_a_huge_canvas(tmp_path: Path) -> None:
    content = bytearray(encode(Image.new("RGBA", (8, 8)), "WEBP", lossless=True, save_all=True))
    place = content.find(b"VP8X")
    if place < 0:
        body = b"VP8X" + struct.pack("<L", 10) + bytes(4) + b"\xff\x3e\0" + b"\xff\x3e\0" + content[12:]
        content = bytearray(b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body)
    else:
        content[place + 12 : place + 18] = b"\xff\x3e\0" * 2
    with pytest.raises(errors.ImageTooLarge):
        unpack(tmp_path, zip_bytes({"a.webp": bytes(content)}))


def listing(*paths: str, labels_txt: list[str] | None = None, sha256: str = "0" * 64, pack: str = "p") -> dict[str, Any]:
    files = [{"path": path, "sha256": sha256, "size": 1, "offset": 0, "pack": pack} for path in sorted(paths)]
    return {"files": files, "labels_txt": labels_txt, "labels_sha256": labels_txt and "1" * 64, "ignored": 0}


def test_labels() -> None:
    assert labels_from_listing(listing("cat/1", "dog/2", "x/cat/3")) == {"cat/1": 0, "dog/2": 1, "x/cat/3": 0}
    assert labels_from_listing(listing("7/1", "10/2", "labels.d/7/3")) == {"7/1": 7, "10/2": 10, "labels.d/7/3": 7}
    named = listing("dog/1", "cat/2", labels_txt=["dog", "bird", "cat"])
    assert labels_from_listing(named) == {"dog/1": 0, "cat/2": 2}
    assert label_counts(named) == {"dog": 1, "cat": 1}
    assert list(label_counts(listing("10/a", "9/b")) or ()) == ["9", "10"]
    assert labels_from_listing(listing("1", "2")) is None
    assert labels_from_listing(listing("a/1", "2")) is None


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(errors.LabelsInvalid, match="cat"):
        labels_from_listing(listing("dog/1", "cat/2", labels_txt=["dog"]))
    with pytest.raises(errors.LabelsInvalid, match="twice"):
        parse_labels(b"a\nb\na\n")
    with pytest.raises(errors.LabelsInvalid, match="UTF-8"):
        parse_labels(b"\xff\xfe")
    with pytest.raises(errors.LabelsInvalid):
        unpack(tmp_path, zip_bytes(FILES | {"labels.txt": b"a\nc"}))
    assert parse_labels(b"\xef\xbb\xbfa\r\nb\r\n\n") == ["a", "b"]


def test_merge_replaces_the_same_path() -> None:
    old = listing("a/1", "b/2", labels_txt=["a", "b"], pack="old")
    new = listing("b/2", "b/3", sha256="2" * 64, pack="new")
    merged = merge_listings(old, new)
    assert [(file["path"], file["pack"]) for file in merged["files"]] == [("a/1", "old"), ("b/2", "new"), ("b/3", "new")]
    assert merged["labels_txt"] == ["a", "b"]
    assert summary_from_listing(merged)["labels"] == {"a": 1, "b": 2}
    assert digest_from_listing(merge_listings(old, old)) == digest_from_listing(old)
    assert merge_listings(old, listing("c/1", labels_txt=["a", "b", "c"]))["labels_txt"] == ["a", "b", "c"]


def test_select_evenly() -> None:
    assert select_evenly("abcdefghij", 4) == ["a", "c", "f", "h"]
    assert select_evenly("abc", 5) == select_evenly("abc", None) == ["a", "b", "c"]


@given(st.integers(0, 300))
def test_spread_order_takes_what_select_evenly_takes(count: int) -> None:
    ordered = spread_order(range(count))
    assert sorted(ordered) == list(range(count))
    taken = 1
    while taken <= count:
        assert sorted(ordered[:taken]) == select_evenly(range(count), taken)
        taken *= 2
