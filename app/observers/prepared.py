"""A model made ready to be observed: files in a folder, and what the observer must know of them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.observers.views import Plan, View

_MANIFEST = "prepared.json"


@dataclass(frozen=True)
class Tensor:
    """A tensor that a segment gives or takes, for the images of one pass: numpy's name of its type, and its shape.

    The images lie one after the other along `batch_axis`; None where the tensor is the same for all images.
    """

    dtype: str
    shape: tuple[int, ...]
    batch_axis: int | None = 0


@dataclass(frozen=True)
class Segment:
    """A part of the graph, from the input on, in a file of its own. Outputs are fetched, or read by later segments."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """All that is known of a model before the first image: `images` are run in one pass, the input has `input_shape`.

    `tensors` are those of the pass that was tried, input included. `is_bindable`: all of them may be laid out before.
    `mixed`: fetched tensors in which an image also depends on the others of its pass. `crossing`: those in which it would, had
    a pass more than one.
    """

    folder: Path
    plan: Plan
    images: int
    tensors: Mapping[str, Tensor]
    segments: tuple[Segment, ...]
    is_bindable: bool
    mixed: tuple[str, ...] = ()
    crossing: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input in a pass."""
        return self.tensors[self.plan.input].shape

    @property
    def unit_images(self) -> int:
        """Images that are counted together or not at all."""
        return self.images if self.mixed else 1

    @property
    def pass_values(self) -> int:
        """How many values a pass has that may be counted."""
        return sum(math.prod(self.tensors[name].shape) for name in (self.plan.input, *self.plan.fetched))


def save_prepared(prepared: Prepared) -> None:
    """Write the manifest beside the segments."""
    facts = {
        "images": prepared.images,
        "is_bindable": prepared.is_bindable,
        "plan": {
            "input": prepared.plan.input,
            "fetched": prepared.plan.fetched,
            "views": {name: _view_to_json(view) for name, view in prepared.plan.views.items()},
        },
        "segments": [[segment.file, segment.inputs, segment.outputs] for segment in prepared.segments],
        "mixed": prepared.mixed,
        "crossing": prepared.crossing,
        "tensors": {name: [tensor.dtype, tensor.shape, tensor.batch_axis] for name, tensor in prepared.tensors.items()},
    }
    (prepared.folder / _MANIFEST).write_text(json.dumps(facts, allow_nan=False), encoding="utf-8")


def read_prepared(folder: Path) -> Prepared:
    """Return what `save_prepared` wrote to folder."""
    facts = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    plan = facts["plan"]
    views = {name: _view_from_json(view) for name, view in plan["views"].items()}
    return Prepared(
        folder,
        Plan(plan["input"], tuple(plan["fetched"]), views),
        facts["images"],
        {name: Tensor(dtype, tuple(shape), axis) for name, (dtype, shape, axis) in facts["tensors"].items()},
        tuple(Segment(file, tuple(inputs), tuple(outputs)) for file, inputs, outputs in facts["segments"]),
        facts["is_bindable"],
        tuple(facts["mixed"]),
        tuple(facts["crossing"]),
    )


def _view_to_json(view: View) -> list[Any]:
    bounds = [None if math.isinf(bound) else bound for bound in (view.low, view.high)]
    return [view.source, *bounds, view.pads]


def _view_from_json(fields: list[Any]) -> View:
    source, low, high, pads = fields
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    return View(source, *bounds, tuple(tuple((before, after) for before, after in axes) for axes in pads))
