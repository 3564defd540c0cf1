"""Find out how the images of a pass lie in a tensor, by changing one of them."""

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
