"""What is measured: a model and its images, decoded once into a plain file, so that no measurement decodes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.float32]


def fill_batch(batch: Batch, size: int) -> Batch:
    """Return float32[size, ...]: where images lack the last one again, as our observer fills its last pass."""
    if len(batch) == size:
        return batch
    return np.concatenate((batch, np.repeat(batch[-1:], size - len(batch), axis=0)))


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
        values = int(np.prod(self.shape))
        stored = Path(self.images).stat().st_size // (4 * values)
        end = first + (self.count - first if count is None else count)
        with Path(self.images).open("rb", buffering=0) as file:
            for start in range(first, end, size):
                batch = np.empty((min(size, end - start), *self.shape), np.float32)
                filled = 0
                while filled < len(batch):
                    place = (start + filled) % stored
                    taken = batch[filled : filled + stored - place]
                    file.seek(4 * values * place)
                    filled += file.readinto(taken.data) // (4 * values)
                yield batch
