"""Looks at the histograms while the pass goes on: whenever the number of images has doubled, up to all of them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.quant.convergence import FIRST_LOOK_IMAGES
from app.quant.histogram import Histogram

#: Of few images there are so many looks, however few they are then at.
_LEAST_LOOKS = 3


def _tell_nobody(_images: int, _histograms: list[Histogram]) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Who is told the histograms by region of the first images, as those and `known_images` double up to the total.

    The doublings go back from the total, which is known and new images: its half, its quarter and so on, rounded up; at
    most `most_looks` of them. Without a total nobody is told.
    """

    total_images: int | None = None
    known_images: int = 0
    tell: Callable[[int, list[Histogram]], None] = _tell_nobody
    most_looks: int | None = None

    def look_images(self) -> list[int]:
        """Return of how many new images it is told, growing."""
        if self.total_images is None:
            return []
        shares = self._shares(self.known_images + self.total_images)[: self.most_looks]
        counts = {-(-(self.known_images + self.total_images) // share) - self.known_images for share in shares}
        return sorted(count for count in counts if 0 < count < self.total_images)

    def _shares(self, total: int) -> list[int]:
        doublings = max(_LEAST_LOOKS, (total // FIRST_LOOK_IMAGES).bit_length() - 1)
        return [1 << doubling for doubling in range(1, doublings + 1)]


class Looks:
    """When a watch is told next. Looks are at multiples of `full` images: passes are full."""

    def __init__(self, watch: Watch, full: int = 1) -> None:
        whole = {-(-images // full) * full for images in watch.look_images()}
        self._at = deque(sorted(images for images in whole if images < (watch.total_images or 0)))

    def take(self, images: int) -> bool:
        """Return whether a look was due by so many images; then it is done with."""
        is_due = False
        while self._at and self._at[0] <= images:
            self._at.popleft()
            is_due = True
        return is_due
