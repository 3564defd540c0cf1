"""A batch of any size through an engine that takes only some."""

import numpy as np
import pytest

from app.engines.portions import run_in_portions


@pytest.mark.parametrize(("images", "least", "most"), [(1, 1, 4), (4, 1, 4), (9, 1, 4), (3, 8, 8), (17, 8, 8), (2, 2, 5)])
def test_every_image_is_answered_once(images: int, least: int, most: int) -> None:
    sizes: list[int] = []

    def run(portion: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(portion))
        return {"double": portion * 2, "total": np.array(portion.sum())}

    batch = np.arange(images, dtype=np.float32)[:, None]
    outputs = run_in_portions(run, batch, least, most)
    np.testing.assert_array_equal(outputs["double"], batch * 2)
    assert all(least <= size <= most for size in sizes)
    assert outputs["total"].size == len(sizes)
