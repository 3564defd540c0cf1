"""Find out how the images of a pass lie in a tensor, by changing one of them, and which image a value is of."""

from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np

from app.errors import CalibrationProblem

_MIXED = (
    "the model takes {images} images at once and computes {tensor} of all of them together; calibrate on a number of images "
    "that {images} divides, on grid tensorrt with a batch_size that it divides"
)


def find_batch_axes(
    names: Sequence[str], before: Iterable[np.ndarray], after: Iterable[np.ndarray], images: int
) -> tuple[list[int | None], tuple[str, ...]]:
    """Return the batch axis of each tensor (`find_batch_axis`), and the names of those that have none to rely on."""
    axes: list[int | None] = []
    mixed = []
    for name, first, second in zip(names, before, after, strict=True):
        try:
            axes.append(find_batch_axis(first, second, images))
        except ValueError:
            axes.append(None)
            mixed.append(name)
    return axes, tuple(mixed)


def find_batch_axis(before: np.ndarray, after: np.ndarray, images: int) -> int | None:
    """Return the axis along which a tensor holds the images of a pass, None where none of them changes it.

    `before` is the tensor for `images` images, `after` with another last one. Raises ValueError where other images than
    the last one differ, too.
    """
    if before.shape != after.shape:
        raise ValueError("its shape depends on the images")
    changed = before != after
    if not changed.any():
        return None
    for axis, size in enumerate(before.shape):
        if size % images == 0 and not changed[(slice(None),) * axis + (slice(size - size // images),)].any():
            return axis
    raise ValueError("an image changes what is computed of another")


def find_crossing(
    names: Sequence[str], before: Iterable[np.ndarray], after: Iterable[np.ndarray], images: int
) -> tuple[str, ...]:
    """Return the tensors in which more changed than one of the images has of them, wherever they lie: see `find_batch_axis`."""
    compared = zip(names, before, after, strict=True)
    return tuple(name for name, one, other in compared if one.shape == other.shape and _changed(one, other) * images > one.size)


def _changed(before: np.ndarray, after: np.ndarray) -> int:
    are_nan = (before != before) & (after != after)
    return int(np.count_nonzero((before != after) & ~are_nan))


def assume_batch_axis(shape: tuple[int, ...], images: int) -> int | None:
    """Return the axis of a tensor that no trial changed, such as one that was zero all over; None where 0 cannot be it."""
    return 0 if shape and shape[0] % images == 0 else None


def take_images(array: np.ndarray, axis: int | None, images: int, of: int) -> np.ndarray:
    """Return what belongs to the first images `of` a pass; all of a tensor that is the same for all images."""
    if images == of or axis is None:
        return array
    return array[(slice(None),) * axis + (slice(array.shape[axis] * images // of),)]


def raise_mixed(tensor: str, images: int) -> NoReturn:
    """Raise CalibrationProblem for a pass that is not full, of a model whose images depend on one another."""
    raise CalibrationProblem(reason=_MIXED.format(images=images, tensor=tensor))


def find_first_image(is_good: np.ndarray, axis: int | None, images: int) -> int:
    """Return the first of images with a value that is not good; 0 where the values are of all images together."""
    if axis is None or images == 1:
        return 0
    rows = np.moveaxis(is_good, axis, 0).reshape(is_good.shape[axis], -1)
    return int(np.argmin(rows.all(axis=1))) * images // len(rows)
