"""Tensors that are not fetched, for their values are those of another one, clamped or padded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """The values of tensor `source`, clamped to [low, high], with zeros around: pads are numpy-like, per axis.

    On TensorRT's grid also what stands for a tensor whose own values TensorRT does not go by, see `app.observers.plan`.
    """

    source: str
    low: float = -math.inf
    high: float = math.inf
    pads: tuple[tuple[tuple[int, int], ...], ...] = ()

    @property
    def is_clamped(self) -> bool:
        """Whether values may differ from the source's."""
        return self.low > -math.inf or self.high < math.inf


@dataclass(frozen=True)
class Plan:
    """Tensors to fetch in the order of the graph, whether the input is observed, and the view behind every name."""

    input: str
    fetched: tuple[str, ...]
    views: Mapping[str, View]


def count_padding(shape: tuple[int, ...], view: View) -> int:
    """Return how many zeros the pads of view add to a tensor of that shape (with the batch axis)."""
    padded = list(shape)
    for pads in view.pads:
        padded = [size + before + after for size, (before, after) in zip(padded, pads, strict=True)]
    return math.prod(padded) - math.prod(shape)
