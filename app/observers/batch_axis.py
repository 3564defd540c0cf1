"""Find out how the images of a pass lie in a tensor, by changing one of them, and which image a value is of."""

import numpy as np


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


def assume_batch_axis(value: np.ndarray, images: int) -> int | None:
    """Return the axis of a tensor that no trial changed, such as one that was zero all over; None where 0 cannot be it."""
    return 0 if value.ndim and value.shape[0] % images == 0 else None


def find_first_image(is_good: np.ndarray, axis: int | None, images: int) -> int:
    """Return the first of images with a value that is not good; 0 where the values are of all images together."""
    if axis is None or images == 1:
        return 0
    rows = np.moveaxis(is_good, axis, 0).reshape(is_good.shape[axis], -1)
    return int(np.argmin(rows.all(axis=1))) * images // len(rows)
