"""The regions that are counted: every distinct view of a fetched tensor once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.observers.views import Plan
from app.quant.observation import Grid


@dataclass(frozen=True, eq=False)
class Regions:
    """What is counted: region r is tensor `sources[r]`, clamped to `clamps[r]` (float32[R, 2]).

    Tensors are numbered in fetch order, the input last. `region_of` says which region holds a tensor's values; of a
    `rectified` tensor the negative ones became 0 since.
    """

    names: tuple[str, ...]
    sources: npt.NDArray[np.int64]
    clamps: npt.NDArray[np.float32]
    region_of: Mapping[str, int]
    rectified: frozenset[str]

    def __len__(self) -> int:
        return len(self.sources)


def make_regions(plan: Plan, grid: Grid) -> Regions:
    """Return the regions of plan; views that differ in padding alone share one.

    On the mergeable grid the Relu of a tensor that is counted itself follows from its signed histogram.
    """
    slots = {name: slot for slot, name in enumerate((*plan.fetched, plan.input))}
    plain = {view.source for view in plan.views.values() if not view.is_clamped}
    rectified = frozenset(
        name
        for name, view in plan.views.items()
        if grid == "mergeable" and (view.low, view.high) == (0, math.inf) and view.source in plain
    )
    found: dict[tuple[int, float, float], int] = {}
    names: list[str] = []
    region_of: dict[str, int] = {}
    for name in sorted(plan.views, key=lambda name: _place(slots[plan.views[name].source], plan)):
        view = plan.views[name]
        key = (slots[view.source], -math.inf if name in rectified else view.low, view.high)
        if key not in found:
            found[key] = len(found)
            names.append(name if view.is_clamped and name not in rectified else view.source)
        region_of[name] = found[key]
    sources = np.array([key[0] for key in found], np.int64)
    clamps = np.array([key[1:] for key in found], np.float32).reshape(-1, 2)
    return Regions(tuple(names), sources, clamps, region_of, rectified)


def _place(slot: int, plan: Plan) -> int:
    # The input first, then the order of the graph: the first bad tensor is the one nearest to the cause.
    return -1 if slot == len(plan.fetched) else slot
