"""Decoded pictures kept on disk: another model, or the judge, need not decode them again.

A file holds one picture as uint8[H, W, C] behind its CRC-32. It is named after its place in the pack, in a folder named
after all that decides its pixels, and is written whole or not at all.
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.inputs.images import DECODER_VERSION
from app.spec import PreprocessSpec

#: Reading a kept picture takes a tenth of this; what was decoded faster is not worth its place.
_LEAST_SECONDS = 0.001
#: Fields that decide what is done with pixels, not what they are.
_LATER = {"scale", "mean", "std", "layout"}
_CRC_BYTES = 4
_UNFINISHED = "new-"


class KeptPixels:
    """The pictures of some packs, decoded by one resolved spec; used by several threads."""

    def __init__(self, folder: Path, limit_bytes: int, spec: PreprocessSpec) -> None:
        """Keep up to limit_bytes more in folder."""
        assert spec.size is not None
        self._folder, self._left = folder, limit_bytes
        self._facts = spec.model_dump(mode="json", exclude=_LATER) | {"decoder": [spec.decoder, DECODER_VERSION]}
        self._shape = (*spec.size, spec.channels)
        self._folders: dict[str, Path] = {}

    def find(self, file: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        """Return the pixels of a listing's entry, None where they are not kept or were damaged."""
        try:
            content = self._path(file).read_bytes()
        except OSError:
            return None
        body = content[_CRC_BYTES:]
        is_whole = len(body) == np.prod(self._shape) and zlib.crc32(body).to_bytes(_CRC_BYTES, "little") == content[:_CRC_BYTES]
        return np.frombuffer(body, np.uint8).reshape(self._shape) if is_whole else None

    def keep(self, file: Mapping[str, Any], pixels: NDArray[np.uint8], seconds: float) -> None:
        """Keep pixels that took that long to decode, where there is room; a full disk ends the keeping."""
        if seconds < _LEAST_SECONDS or pixels.nbytes > self._left:
            return
        self._left -= pixels.nbytes
        path, body = self._path(file), pixels.tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=_UNFINISHED) as folder:
                part = Path(folder, path.name)
                part.write_bytes(zlib.crc32(body).to_bytes(_CRC_BYTES, "little") + body)
                part.replace(path)
        except OSError:
            self._left = 0

    def _path(self, file: Mapping[str, Any]) -> Path:
        pack = file["pack"]
        if pack not in self._folders:
            facts = json.dumps(self._facts | {"pack": pack}, sort_keys=True)
            self._folders[pack] = self._folder / hashlib.sha256(facts.encode()).hexdigest()[:40]
            with suppress(OSError):
                os.utime(self._folders[pack])  # what was used last goes last
        return self._folders[pack] / str(file["offset"])
