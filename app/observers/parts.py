"""Which regions can be counted after which segment, and where their values are then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from app.observers.batch_axis import take_images
from app.observers.counting import Located
from app.observers.prepared import Prepared
from app.observers.regions import Regions

_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class Parts:
    """Regions in the order in which they are counted: part p, what segment p gives, has those from `firsts[p]` on.

    The first part has the input, too. Place k is region `order[k]`, the tensor `sources[k]` clamped to `clamps[k]`
    (float32[R, 2]), called `names[k]` in a message.
    """

    order: tuple[int, ...]
    names: tuple[str, ...]
    sources: tuple[str, ...]
    clamps: npt.NDArray[np.float32]
    firsts: tuple[int, ...]
    batch_axes: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.order)

    def locate(self, part: int, values: Mapping[str, np.ndarray], images: tuple[int, int]) -> Located:
        """Return the regions of a part, given the values of its tensors for (images that count, images of the pass)."""
        first = self.firsts[part]
        end = self.firsts[part + 1] if part + 1 < len(self.firsts) else len(self)
        axes = self.batch_axes[first:end]
        counted = [take_images(values[name], axis, *images) for name, axis in zip(self.sources[first:end], axes, strict=True)]
        arrays = [np.ascontiguousarray(array, np.float32) for array in counted]
        return Located(arrays, [array.size for array in arrays], self.clamps[first:end])

    def by_region(self, values: Sequence[_Value]) -> list[_Value]:
        """Return values by place in the order of the regions."""
        return [value for _, value in sorted(zip(self.order, values, strict=True), key=lambda pair: pair[0])]


def make_parts(prepared: Prepared, regions: Regions) -> Parts:
    """Return the regions of a prepared model by segment."""
    names = (*prepared.plan.fetched, prepared.plan.input)
    part_of = {name: part for part, segment in enumerate(prepared.segments) for name in segment.outputs}
    parts = [part_of.get(names[source], 0) for source in regions.sources]
    # Within a part the order of the graph: the first bad tensor is the one nearest to the cause.
    order = sorted(range(len(regions)), key=lambda region: (parts[region], region))
    return Parts(
        order=tuple(order),
        names=tuple(regions.names[region] for region in order),
        sources=tuple(names[regions.sources[region]] for region in order),
        clamps=regions.clamps[order],
        batch_axes=tuple(prepared.tensors[names[regions.sources[region]]].batch_axis for region in order),
        firsts=tuple(sum(other < part for other in parts) for part in range(max(1, len(prepared.segments)))),
    )
