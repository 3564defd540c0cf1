"""Prepare the nets of the benchmark: the packaged digits, files of the user, a ResNet-50 with random weights."""

import asyncio
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from app.bench.resnet50 import make_resnet50
from app.bench.subject import Subject
from app.child.parent import ChildCall, run_child
from app.errors import DatasetEmpty, FolderEmpty, ImageCorrupt, ImageProblem
from app.inputs.archive import find_kind
from app.inputs.headers import begins_like_image
from app.inputs.images import decode_image
from app.inputs.limits import InputLimits
from app.inputs.model import inspect_model, parse_model
from app.inputs.model_files import MODEL_FILE, find_external_tensors, get_location
from app.inputs.preprocess import resolve_preprocess
from app.spec import PreprocessSpec

DIGITS = Path(__file__).parent.parent / "client" / "digits"
_LIMITS = InputLimits()
_UNPACK_SECONDS = 3600


@dataclass(frozen=True)
class Wanted:
    """A net by name: its model (None: ResNet-50), its images (a folder or archive; None: noise), how many to run (None: all).

    `preprocess.size` is needed where the model's input does not say it.
    """

    name: str
    model: Path | None
    images: Path | None
    count: int | None = None
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)


def default_nets(assets: Path | None) -> list[Wanted]:
    """Return the packaged digits and a ResNet-50 with random weights; with the folder of assets EfficientNet-Lite0."""
    nets = [Wanted("digits CNN", DIGITS / "mnist-cnn.onnx", DIGITS / "mnist-calibration-500.zip", 10_000)]
    if assets is not None:
        nets.append(Wanted("EfficientNet-Lite0", assets / "efficientnet-lite0.onnx", assets / "photos-256.zip"))
    return [*nets, Wanted("ResNet-50, random weights", None, None, 64)]


def prepare(wanted: Wanted, folder: Path) -> Subject:
    """Decode the images into a file of folder and return the subject. Raises ModelProblem, ImageProblem, DatasetEmpty."""
    folder.mkdir(parents=True, exist_ok=True)
    model = wanted.model or _save_resnet50(folder)
    path, inputs = _inspected(model, folder)
    spec = resolve_preprocess(wanted.preprocess, inputs)
    images = folder / "images.f32"
    with images.open("wb") as out:
        arrays = _decoded(wanted.images, spec) if wanted.images else _noise(spec)
        shapes = [_write(array, out) for array in arrays]
    if not shapes:
        raise _empty(wanted.images)
    return Subject(wanted.name, str(path), str(images), shapes[0], wanted.count or len(shapes))


def _empty(images: Path | None) -> DatasetEmpty:
    return FolderEmpty(folder=images) if images and images.is_dir() else DatasetEmpty(ignored=f" (no image is in {images})")


def _write(array: np.ndarray, out: Any) -> tuple[int, ...]:
    out.write(np.ascontiguousarray(array, np.float32).tobytes())
    return array.shape


def _save_resnet50(folder: Path) -> Path:
    path = folder / "resnet50.onnx"
    onnx.save_model(make_resnet50(), path)
    return path


def _inspected(model: Path, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return where the ONNX file lies, with its data files beside it, and its inputs."""
    (folder / "model").mkdir(exist_ok=True)
    upload = str(_as_uploaded(model, folder))
    request = {"path": upload, "folder": str(folder / "model"), "limits": _LIMITS.model_dump(mode="json")}
    found = inspect_model(request, lambda _event: None)
    return Path(found["files"][0]["path"]), found["inputs"]


def _as_uploaded(model: Path, folder: Path) -> Path:
    """Return the model, packed together with its data files where it has such."""
    with model.open("rb") as file:
        if find_kind(file.read(512)) is not None:
            return model
    locations = {get_location(tensor) for tensor in find_external_tensors(parse_model(model))}
    if not locations:
        return model
    packed = folder / "model.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(model, MODEL_FILE)
        for location in sorted(locations):
            if (model.parent / location).is_file():  # else the inspection says what is missing
                archive.write(model.parent / location, location)
    return packed


def _decoded(source: Path, spec: PreprocessSpec) -> Iterator[np.ndarray]:
    for name, content in _files(source):
        if begins_like_image(content[:12]):
            yield _decode(content, spec, name)


def _decode(content: bytes, spec: PreprocessSpec, name: str) -> np.ndarray:
    try:
        return decode_image(content, spec, _LIMITS, name)
    except ImageCorrupt as problem:  # what that advises is for jobs
        raise ImageProblem(image=problem.facts["names"][0], reason="it cannot be decoded; leave it out") from problem


def image_names(source: Path) -> list[str]:
    """Return the names of the images of a folder or archive, in the order in which `prepare` decodes them."""
    return [name for name, content in _files(source) if begins_like_image(content[:12])]


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    if is_tar(source):
        yield from _unpacked(source)
        return
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist()):
            yield name, archive.read(name)


def is_tar(path: Path) -> bool:
    """Tell whether a file begins like a tar, tar.gz or tar.zst."""
    with path.open("rb") as file:
        return find_kind(file.read(512)) in ("tar", "gzip", "zstd")


def _unpacked(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the images of an archive by name, read in a process of its own as uploads are."""
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        pack, listing = Path(folder, "pack"), Path(folder, "listing")
        request = {"archive": str(archive.resolve()), "pack": str(pack), "listing": str(listing)}
        limits = {"limits": _LIMITS.model_dump(mode="json")}
        asyncio.run(run_child(ChildCall("app.inputs.dataset:unpack_dataset", request | limits, "bench", _UNPACK_SECONDS)))
        with pack.open("rb") as packed:
            for entry in json.loads(listing.read_text(encoding="utf-8"))["files"]:
                packed.seek(entry["offset"])
                yield entry["path"], packed.read(entry["size"])


def _noise(spec: PreprocessSpec) -> Iterator[np.ndarray]:
    assert spec.size is not None
    shape = (*spec.size, spec.channels) if spec.layout == "NHWC" else (spec.channels, *spec.size)
    generator = np.random.default_rng(0)
    for _ in range(16):
        yield generator.random(shape, np.float32)
