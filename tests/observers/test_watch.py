"""When the histograms are looked at: after every doubling of the images, back from all of them."""

import pytest

from app.observers.watch import Looks, Watch


@pytest.mark.parametrize(
    ("watch", "images"),
    [
        (Watch(), []),
        (Watch(1), []),
        (Watch(7), [1, 2, 4]),
        (Watch(256), [16, 32, 64, 128]),
        (Watch(10_000), [20, 40, 79, 157, 313, 625, 1250, 2500, 5000]),
        (Watch(10_000, most_looks=3), [1250, 2500, 5000]),
        (Watch(5, known_images=100), []),
        (Watch(300, known_images=100), [100]),
    ],
)
def test_looks_are_at_the_doublings(watch: Watch, images: list[int]) -> None:
    assert watch.look_images() == images


def test_looks_fill_passes_and_come_once() -> None:
    looks = Looks(Watch(256), full=11)
    assert [images for images in range(0, 257, 11) if looks.take(images)] == [22, 33, 66, 132]


def test_looks_that_a_batch_passes_are_one() -> None:
    looks = Looks(Watch(256))
    assert [looks.take(images) for images in (100, 100, 200)] == [True, False, True]
