"""Batches of decoded images from packs, decoded ahead by a few threads with bounded memory."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from app.errors import BlobCorrupt, ImageCorrupt, ImageProblem
from app.inputs.images import decode_pixels, is_one_colour, values_from_pixels
from app.inputs.limits import InputLimits
from app.inputs.pixels import KeptPixels
from app.spec import PreprocessSpec

#: After the image too many, so many more are decoded to name further bad ones, until 100 are known.
_SCAN_IMAGES = 1000
_MAX_LISTED = 100
_MAX_AHEAD = 64
#: A smaller image is decoded by whoever asks for it, when it is its turn: two threads would hand the GIL to and fro.
_SMALL_BYTES = 4 << 10

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Decoded:
    """An image's values, and whether it is of one colour alone."""

    values: Array
    is_one_colour: bool


#: Returns an image when it is decoded; raises ImageProblem, BlobCorrupt.
_Work = Callable[[], _Decoded]


@dataclass(frozen=True)
class BatchOptions:
    """How images are put into batches, and what happens to those that cannot be decoded."""

    batch_size: int
    limits: InputLimits
    on_bad_image: Literal["fail", "skip"] = "fail"
    max_bad_fraction: float = 0.0
    threads: int = 2
    #: What max_bad_fraction is a fraction of, where the images given are a part of more.
    of_images: int | None = None
    #: Where decoded pictures are kept, by the same spec.
    kept: KeptPixels | None = None

    def allowed_bad(self, given: int) -> int:
        """How many of the images may be skipped, of those given or of `of_images`."""
        return int(self.max_bad_fraction * (self.of_images or given)) if self.on_bad_image == "skip" else 0


class Batches:
    """Yields float32[N, C, H, W] (or NHWC) in the order given; N = batch_size but for the last batch.

    While it runs, `used` grows by the paths of the images handed out, in their order, `constant` by those of one colour
    alone among them, and `skipped` by those that could not be decoded ("path (reason)"). Iterate once.
    """

    def __init__(
        self,
        files: Sequence[Mapping[str, Any]],
        packs: Mapping[str, Path],
        spec: PreprocessSpec,
        options: BatchOptions,
    ) -> None:
        self.used: list[str] = []
        self.constant: list[str] = []
        self.skipped: list[str] = []
        self._files = files
        self._packs = packs
        self._spec = spec
        self._options = options

    @property
    def images(self) -> int:
        """How many images were given, bad ones included."""
        return len(self._files)

    @property
    def allowed_bad(self) -> int:
        """How many of them may be skipped."""
        return self._options.allowed_bad(len(self._files))

    def __iter__(self) -> Generator[Array]:
        batch: list[Array] = []
        with ExitStack() as stack:
            for image in self._decode_all(stack):
                batch.append(image)
                if len(batch) == self._options.batch_size:
                    yield np.stack(batch)
                    batch = []
        if batch:
            yield np.stack(batch)

    def _decode_all(self, stack: ExitStack) -> Iterator[Array]:
        packs = {digest: stack.enter_context(path.open("rb")).fileno() for digest, path in self._packs.items()}
        pool = ThreadPoolExecutor(self._options.threads)
        stack.callback(pool.shutdown, cancel_futures=True)
        ahead = min(self._options.batch_size, _MAX_AHEAD) + self._options.threads
        waiting: deque[tuple[Mapping[str, Any], _Work]] = deque()
        upcoming = ((file, self._begin(pool, file, packs)) for file in self._files)
        while True:
            waiting.extend(islice(upcoming, max(0, ahead - len(waiting))))
            if not waiting:
                return
            file, work = waiting.popleft()
            image = self._take(file, work)
            if image is not None:
                self.used.append(file["path"])
                self.constant += [file["path"]] if image.is_one_colour else []
                yield image.values
            elif len(self.skipped) > self.allowed_bad:
                self._fail(chain(waiting, upcoming))

    def _begin(self, pool: ThreadPoolExecutor, file: Mapping[str, Any], packs: Mapping[str, int]) -> _Work:
        if file["size"] < _SMALL_BYTES:
            return partial(self._decode, file, packs)
        return pool.submit(self._decode, file, packs).result

    def _decode(self, file: Mapping[str, Any], packs: Mapping[str, int]) -> _Decoded:
        pixels = self._pixels(file, packs)
        return _Decoded(values_from_pixels(pixels, self._spec), is_one_colour(pixels))

    def _pixels(self, file: Mapping[str, Any], packs: Mapping[str, int]) -> NDArray[np.uint8]:
        known = self._options.kept.find(file) if self._options.kept is not None else None
        if known is not None:
            return known
        content = os.pread(packs[file["pack"]], file["size"], file["offset"])
        # The key says which bytes were calibrated on; a disk that changed one must not go unnoticed.
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise BlobCorrupt(digest=file["pack"])
        began = time.monotonic()
        pixels = decode_pixels(content, self._spec, self._options.limits, file["path"])
        if self._options.kept is not None:
            self._options.kept.keep(file, pixels, time.monotonic() - began)
        return pixels

    def _take(self, file: Mapping[str, Any], work: _Work) -> _Decoded | None:
        try:
            return work()
        except ImageProblem as problem:
            self.skipped.append(_describe(file, problem))
            return None

    def _fail(self, rest: Iterator[tuple[Mapping[str, Any], _Work]]) -> NoReturn:
        """Raise ImageCorrupt naming up to 100 bad images: those met, and those among the next 1,000."""
        names = list(self.skipped)
        for file, work in islice(rest, _SCAN_IMAGES):
            try:
                work()
            except ImageProblem as problem:
                names.append(_describe(file, problem))
            except (BlobCorrupt, OSError):
                continue  # the images met are what is told of
            if len(names) >= _MAX_LISTED:
                break
        raise ImageCorrupt(count=len(names), names=names)


def _describe(file: Mapping[str, Any], problem: ImageProblem) -> str:
    if isinstance(problem, ImageCorrupt):
        return problem.facts["names"][0]
    return f"{file['path']} ({problem.facts.get('reason', problem.detail)})"


def read_batches(
    files: Sequence[Mapping[str, Any]], packs: Mapping[str, Path], spec: PreprocessSpec, options: BatchOptions
) -> Batches:
    """Return the batches of these entries of a listing (each with its "pack") by a resolved preprocess spec.

    Iterating raises ImageCorrupt: with on_bad_image "fail" at the first image that cannot be decoded, with "skip" as
    soon as more than max_bad_fraction of all were skipped. It names those met so far and those among the next 1,000.
    Raises BlobCorrupt where bytes no longer have their digest.
    """
    return Batches(files, packs, spec, options)
