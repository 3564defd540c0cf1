"""What is measured: a model and its images, decoded once into a plain file, so that no measurement decodes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A model and `count` images: those of the file `images`, float32 of `shape` each, over and over."""

    name: str
    model: str
    images: str
    shape: tuple[int, ...]
    count: int

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the subject of a child's request."""
        shape = tuple(fields["shape"])
        return cls(fields["name"], fields["model"], fields["images"], shape, fields["count"])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def batches(self, size: int, first: int = 0, count: int | None = None) -> Iterator[Batch]:
        """Yield float32[size, ...] of the images from first on, the last one maybe smaller; read, never mapped."""
        # A mapped file would count as memory of whoever reads it.
        image_bytes = 4 * int(np.prod(self.shape))
        stored = Path(self.images).stat().st_size // image_bytes
        end = first + (self.count - first if count is None else count)
        with Path(self.images).open("rb") as file:
            for start in range(first, end, size):
                numbers = [number % stored for number in range(start, min(start + size, end))]
                yield np.stack([self._read(file, number * image_bytes) for number in numbers])

    def _read(self, file: Any, offset: int) -> Batch:
        file.seek(offset)
        return np.fromfile(file, np.float32, int(np.prod(self.shape))).reshape(self.shape)
