"""The agreement to expect: that of votes, where there are many, and steadier where there are few."""

import numpy as np
import pytest

from app.quant.judge import Comparison
from app.quant.margins import Margins


def noisy(images: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, 10))
    return logits, logits + random.normal(0, noise, logits.shape)


def expected(reference: np.ndarray, tested: np.ndarray) -> float:
    margins = Margins()
    for start in range(0, len(reference), 7):
        margins.add(reference[start : start + 7], tested[start : start + 7])
    found = margins.expected_agreement()
    assert found is not None
    return found


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.2])
def test_it_is_what_many_votes_come_to(noise: float) -> None:
    reference, tested = noisy(20_000, noise)
    votes = float((reference.argmax(axis=1) == tested.argmax(axis=1)).mean())
    assert expected(reference, tested) == pytest.approx(votes, abs=0.006)


def test_it_is_steadier_than_votes() -> None:
    pairs = [noisy(100, 0.2, seed) for seed in range(30)]
    votes = np.std([(reference.argmax(axis=1) == tested.argmax(axis=1)).mean() for reference, tested in pairs])
    assert np.std([expected(*pair) for pair in pairs]) < 0.7 * votes


def test_probabilities_count_as_the_logits_that_they_were_made_of() -> None:
    reference, tested = noisy(50, 0.1)
    softmax = [np.exp(values) / np.exp(values).sum(axis=1, keepdims=True) for values in (reference, tested)]
    assert expected(*softmax) == pytest.approx(expected(reference, tested), abs=1e-9)


def test_nothing_moved_and_nothing_seen() -> None:
    reference, _ = noisy(5, 0.0)
    assert expected(reference, reference) == 1.0
    assert Margins().expected_agreement() is None
    assert Comparison(images=1).to_json()["expected_agreement"] is None
