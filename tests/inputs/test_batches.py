import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import errors
from app.inputs.batches import BatchOptions, read_batches
from app.inputs.dataset import unpack_dataset
from app.inputs.images import decode_image
from app.inputs.limits import InputLimits
from app.inputs.pixels import KeptPixels
from app.spec import PreprocessSpec
from tests.inputs.archives import zip_bytes
from tests.inputs.pictures import encode, png

SPEC = PreprocessSpec(size=(8, 8), color="RGB", layout="NCHW")
LIMITS = InputLimits()


def stored(folder: Path, files: dict[str, bytes]) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Unpack files as an upload is, and return the listing's entries with the digest of their pack."""
    folder.mkdir(exist_ok=True)
    paths = {name: folder / name for name in ("archive", "pack", "listing")}
    paths["archive"].write_bytes(zip_bytes(files))
    request = {name: str(path) for name, path in paths.items()} | {"limits": LIMITS.model_dump(mode="json")}
    unpack_dataset(request, lambda _: None)
    digest = hashlib.sha256(paths["pack"].read_bytes()).hexdigest()
    entries = json.loads(paths["listing"].read_text())["files"]
    return [entry | {"pack": digest} for entry in entries], {digest: paths["pack"]}


@pytest.fixture(params=[False, True], ids=["by whoever asks", "by threads"], autouse=True)
def in_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether threads decode, as they do images larger than these."""
    if request.param:
        monkeypatch.setattr("app.inputs.batches._SMALL_BYTES", 0)
    return request.param


GOOD = {f"{n:02}.png": png(n) for n in range(11)}


def test_batches_are_in_order_and_full_but_the_last(tmp_path: Path) -> None:
    files, packs = stored(tmp_path, GOOD)
    batches = read_batches(files, packs, SPEC, BatchOptions(4, LIMITS))
    found = list(batches)
    assert [batch.shape for batch in found] == [(4, 3, 8, 8), (4, 3, 8, 8), (3, 3, 8, 8)]
    expected = np.stack([decode_image(content, SPEC, LIMITS) for content in GOOD.values()])
    assert np.array_equal(np.concatenate(found), expected)
    assert batches.used == list(GOOD)
    assert batches.skipped == []


def test_images_of_several_packs_in_any_order(tmp_path: Path) -> None:
    first, packs = stored(tmp_path / "1", {"a.png": png(1)})
    second, more = stored(tmp_path / "2", {"b.png": png(2), "c.png": png(3)})
    files = [second[1], first[0], second[0]]
    found = np.concatenate(list(read_batches(files, packs | more, SPEC, BatchOptions(1, LIMITS))))
    assert np.array_equal(found, np.stack([decode_image(png(n), SPEC, LIMITS) for n in (3, 1, 2)]))


def test_images_of_one_colour_are_named(tmp_path: Path) -> None:
    almost = Image.new("RGB", (8, 8), (9, 9, 9))
    almost.putpixel((7, 0), (9, 9, 8))
    frame = Image.new("RGB", (8, 8), (9, 9, 9))
    frame.putpixel((4, 4), (0, 0, 0))
    pictures = {
        "blank.png": Image.new("RGB", (8, 8), (9, 8, 7)),
        "large.png": Image.new("L", (300, 200), 255),
        "almost.png": almost,
        "frame.png": frame,
    }
    files, packs = stored(tmp_path, {name: encode(picture, "PNG") for name, picture in pictures.items()} | GOOD)
    kept = KeptPixels(tmp_path / "kept", 1 << 20, SPEC)
    for _ in range(2):  # the second time from kept pixels
        batches = read_batches(files, packs, SPEC, BatchOptions(4, LIMITS, kept=kept))
        assert sum(len(batch) for batch in batches) == 15
        assert sorted(batches.constant) == ["blank.png", "large.png"]


BAD = GOOD | {"03.png": png()[:60], "05.png": png()[:20], "09.tif": encode(Image.new("F", (8, 8)), "TIFF")}


def test_fails_naming_every_bad_image(tmp_path: Path) -> None:
    files, packs = stored(tmp_path, BAD)
    with pytest.raises(errors.ImageCorrupt) as caught:
        list(read_batches(files, packs, SPEC, BatchOptions(2, LIMITS)))
    assert caught.value.facts["count"] == 3
    assert [name.split(" ")[0] for name in caught.value.facts["names"]] == ["03.png", "05.png", "09.tif"]


def test_skips_up_to_the_fraction_that_is_allowed(tmp_path: Path) -> None:
    files, packs = stored(tmp_path, BAD)
    batches = read_batches(files, packs, SPEC, BatchOptions(4, LIMITS, "skip", 0.25))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert len(batches.skipped) == 3
    assert batches.used == [name for name in GOOD if name not in ("03.png", "05.png")]
    for options in (BatchOptions(4, LIMITS, "skip", 0.2), BatchOptions(4, LIMITS, "skip")):
        with pytest.raises(errors.ImageCorrupt):
            list(read_batches(files, packs, SPEC, options))


def test_a_changed_pack_is_noticed(tmp_path: Path) -> None:
    files, packs = stored(tmp_path, GOOD)
    pack = next(iter(packs.values()))
    content = bytearray(pack.read_bytes())
    content[-30] ^= 1
    pack.write_bytes(content)
    with pytest.raises(errors.BlobCorrupt):
        list(read_batches(files, packs, SPEC, BatchOptions(4, LIMITS)))


def test_stopping_early_ends_the_threads(tmp_path: Path, in_threads: bool) -> None:
    files, packs = stored(tmp_path, GOOD)
    before = set(threading.enumerate())
    iterator = iter(read_batches(files * 50, packs, SPEC, BatchOptions(1, LIMITS)))
    assert next(iterator).shape == (1, 3, 8, 8)
    assert (set(threading.enumerate()) > before) == in_threads
    iterator.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
