"""Which images are calibrated on and which are judged on: two archives a split, no image in both."""

import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.bench.prepare import DIGITS
from app.inputs.headers import begins_like_image

_LABELS = "labels.txt"


@dataclass(frozen=True)
class Split:
    """A model with images to calibrate on and others to judge on; `preprocess` as in a JobSpec."""

    net: str
    name: str
    model: Path
    calibration: Path
    judge: Path
    preprocess: dict[str, Any] = field(default_factory=dict)


def digits_split() -> Split:
    """Return the packaged digits: 500 to calibrate on, 1500 with labels to judge on."""
    images = DIGITS / "mnist-calibration-500.zip", DIGITS / "mnist-test-1500.zip"
    return Split("digits CNN", "calibration, test", DIGITS / "mnist-cnn.onnx", *images)


@dataclass(frozen=True)
class Halved:
    """One archive of images (zip) that is halved `splits` times."""

    net: str
    model: Path
    images: Path
    preprocess: dict[str, Any]
    splits: int = 2

    def write(self, folder: Path) -> Iterator[Split]:
        """Yield the splits, written as zips to folder: even and odd places of the sorted names, the other way round, then
        halves drawn with a fixed seed, each the other way round as well."""
        with zipfile.ZipFile(self.images) as archive:
            names = sorted(name for name in archive.namelist() if begins_like_image(_start(archive, name)))
            for number, (calibration, judge) in zip(range(self.splits), _halves(names), strict=False):
                paths = folder / f"calibration-{number}.zip", folder / f"judge-{number}.zip"
                for path, chosen in zip(paths, (calibration, judge), strict=True):
                    _write(archive, chosen, path)
                yield Split(self.net, f"split {number + 1}", self.model, *paths, self.preprocess)


def _halves(names: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    halves = names[::2], names[1::2]
    generator = random.Random(0)  # noqa: S311 - the same halves on every machine
    while True:
        yield halves
        yield halves[1], halves[0]
        shuffled = generator.sample(names, len(names))
        halves = sorted(shuffled[::2]), sorted(shuffled[1::2])


def _start(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        return file.read(12)


def _write(archive: zipfile.ZipFile, names: list[str], path: Path) -> None:
    labels = [_LABELS] if _LABELS in archive.namelist() else []
    with zipfile.ZipFile(path, "w") as out:
        for name in [*names, *labels]:
            out.writestr(name, archive.read(name))
