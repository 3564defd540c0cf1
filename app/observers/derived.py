"""From the histograms of what was counted to those of all tensors: what follows from another one's values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.observers.regions import Regions
from app.observers.views import Plan, count_padding
from app.quant.histogram import Histogram, MergeableHistogram, add_zeros, relu_of_mergeable


@dataclass(frozen=True)
class Passes:
    """How many images were counted, how many a pass takes, and the shapes of its tensors, with the batch axis."""

    images: int
    pass_images: int
    shapes: Mapping[str, tuple[int, ...]]


def derive_histograms(plan: Plan, regions: Regions, counted: Sequence[Histogram], passes: Passes) -> dict[str, Histogram]:
    """Return the histogram of every tensor of plan from those of the regions."""
    histograms: dict[str, Histogram] = {}
    for name, view in plan.views.items():
        histogram = counted[regions.region_of[name]]
        if name in regions.rectified and isinstance(histogram, MergeableHistogram):
            histogram = relu_of_mergeable(histogram)
        zeros = count_padding(passes.shapes[view.source], view) // passes.pass_images
        histograms[name] = add_zeros(histogram, zeros * passes.images)
    return histograms
