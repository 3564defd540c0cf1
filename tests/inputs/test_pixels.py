"""Kept pictures: the same values without decoding, never those of another spec, and never a damaged one."""

from pathlib import Path

import numpy as np
import pytest

from app.inputs import pixels
from app.inputs.batches import BatchOptions, read_batches
from app.inputs.pixels import KeptPixels
from app.spec import PreprocessSpec
from tests.inputs.test_batches import GOOD, LIMITS, SPEC, stored


@pytest.fixture(autouse=True)
def quick_pictures_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_LEAST_SECONDS", 0)


def read(files, packs, kept: KeptPixels | None, spec: PreprocessSpec = SPEC) -> np.ndarray:
    return np.concatenate(list(read_batches(files, packs, spec, BatchOptions(4, LIMITS, kept=kept))))


def test_kept_pictures_need_no_pack(tmp_path: Path) -> None:
    files, packs = stored(tmp_path / "stored", GOOD)
    plain = read(files, packs, None)
    assert np.array_equal(read(files, packs, KeptPixels(tmp_path / "kept", 1 << 20, SPEC)), plain)
    next(iter(packs.values())).write_bytes(b"")
    assert np.array_equal(read(files, packs, KeptPixels(tmp_path / "kept", 0, SPEC)), plain)
    scaled = SPEC.model_copy(update={"scale": 2 / 255, "layout": "NHWC"})
    assert np.allclose(read(files, packs, KeptPixels(tmp_path / "kept", 0, scaled), scaled), 2 * plain.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "other", [{"size": (9, 8)}, {"color": "BGR"}, {"resample": "box"}, {"exif": True}, {"decoder": "draft"}]
)
def test_another_spec_has_other_pictures(tmp_path: Path, other) -> None:
    files, packs = stored(tmp_path / "stored", GOOD)
    read(files, packs, KeptPixels(tmp_path / "kept", 1 << 20, SPEC))
    spec = SPEC.model_copy(update=other)
    assert KeptPixels(tmp_path / "kept", 0, spec).find(files[0]) is None
    assert np.array_equal(read(files, packs, KeptPixels(tmp_path / "kept", 0, spec), spec), read(files, packs, None, spec))


def test_damaged_pictures_are_decoded_anew(tmp_path: Path) -> None:
    files, packs = stored(tmp_path / "stored", GOOD)
    plain = read(files, packs, KeptPixels(tmp_path / "kept", 1 << 20, SPEC))
    for number, path in enumerate(sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content) if number % 2 else b"")
    assert np.array_equal(read(files, packs, KeptPixels(tmp_path / "kept", 0, SPEC)), plain)


def test_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    files, packs = stored(tmp_path / "stored", GOOD)
    size = 8 * 8 * 3
    read(files, packs, KeptPixels(tmp_path / "kept", 5 * size, SPEC))
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 5


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    files, packs = stored(tmp_path / "stored", GOOD)
    (tmp_path / "kept").write_text("in the way")
    kept = KeptPixels(tmp_path / "kept", 1 << 20, SPEC)
    assert np.array_equal(read(files, packs, kept), read(files, packs, None))
