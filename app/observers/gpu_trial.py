"""Try a pass on the GPU with noise: where its images lie in each tensor, and whether they depend on one another.

As `app.observers.prepare` does for the CPU: a black image could hide a difference.
"""

from collections.abc import Sequence

import numpy as np

from app.observers.batch_axis import find_batch_axes
from app.observers.forward import Batch
from app.observers.gpu_regions import Device, Placed, compare_images
from app.observers.gpu_streams import Forward
from app.observers.noise import make_noise

_Shapes = Sequence[tuple[int, ...]]


def are_images_alike(forward: Forward, device: Device) -> bool:
    """Tell whether every place of a pass computes the same bits of an image in all tensors, whatever the last one is.

    Only then observations of parts merge to that of the whole.
    """
    images, shapes = forward.slots[0].images, forward.slots[0].shapes
    if any(not shape or shape[0] != images for shape in shapes):
        return False
    singles = [(1, *shape[1:]) for shape in shapes[:-1]]
    same, other = _make_batches(images, shapes[-1])
    before = _run(forward, same, singles)
    if compare_images(device, forward.slots[0], images).any():
        return False
    after = _run(forward, other, singles)
    is_kept = all(first.tobytes() == second.tobytes() for first, second in zip(before, after, strict=True))
    return is_kept and not compare_images(device, forward.slots[0], images - 1).any()


def find_places(forward: Forward, fetched: Sequence[str]) -> Placed:
    """Return where the images of a pass lie in each of the fetched tensors (their names), and which of those mix them."""
    images, shapes = forward.slots[0].images, forward.slots[0].shapes
    before, after = (_run(forward, given, shapes[:-1]) for given in _make_batches(images, shapes[-1]))
    axes, mixed = find_batch_axes(fetched, before, after, images)
    return Placed((*axes, 0), mixed)


def _make_batches(images: int, shape: tuple[int, ...]) -> tuple[Batch, Batch]:
    """Return a pass of one image over and over, and the same with another last one."""
    same = np.repeat(make_noise((1, *shape[1:]), seed=0), images, axis=0)
    other = same.copy()
    other[-1] = make_noise(shape[1:], seed=1)
    return same, other


def _run(forward: Forward, given: Batch, shapes: _Shapes) -> list[np.ndarray]:
    forward.fill(0, 0, given)
    forward.run(0, len(given))
    values = [forward.read(tensor, shape) for tensor, shape in enumerate(shapes)]
    forward.release(0)
    return values
