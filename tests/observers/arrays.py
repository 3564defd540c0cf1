"""Arrays of many kinds, the same for a number anywhere, whose thresholds TensorRT's own calibrators chose.

What is calibrated is the input of a network and its Relu: TensorRT and we count the very same values, so no difference can be
due to the arithmetic of a forward pass.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Random = np.random.Generator
Shape = tuple[int, int]
Values = npt.NDArray[np.float32]

f32 = np.float32


def make_array(number: int) -> tuple[str, Values]:
    """Return the name and float32[batches, values] of an array; some hang on how numpy and the CPU compute powers."""
    random = np.random.default_rng(number)
    name, kind = list(KINDS.items())[number % len(KINDS)]
    batches, size = int(random.integers(2, 8)), int(random.choice([16, 64, 200, 500, 1000, 4000, 20000, 60000]))
    return f"s{number}_{name}", np.ascontiguousarray(kind(random, (batches, size)).astype(f32))


def _bytes(random: Random, shape: Shape) -> npt.NDArray[np.int64]:
    return np.minimum(random.gamma(2, 40, shape), 255).astype(np.int64)


def _softmax(random: Random, shape: Shape) -> np.ndarray:
    classes = int(random.choice([4, 10]))
    logits = random.normal(0, random.uniform(1, 8), (shape[0], max(1, shape[1] // classes), classes))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).reshape(shape[0], -1)


def _late(random: Random, shape: Shape) -> np.ndarray:
    values = random.normal(0, 1, shape)
    values[: int(random.integers(1, shape[0]))] = 0
    return values


def _growing(random: Random, shape: Shape) -> np.ndarray:
    return random.normal(0, 1, shape) * (random.choice([1, 1.3, 2, 4, 20]) ** np.arange(shape[0]))[:, None]


def _doubled(random: Random, shape: Shape) -> np.ndarray:
    return np.rint(random.uniform(-16, 16, shape)) * (2.0 ** random.integers(0, 3, shape[0]))[:, None]


def _outlier(random: Random, shape: Shape) -> np.ndarray:
    values = random.normal(0, 1, shape)
    values.flat[random.integers(values.size)] = random.choice([50, 1000.0])
    return values


def _hardswish(random: Random, shape: Shape) -> np.ndarray:
    values = random.normal(0, 3, shape).astype(f32)
    return values * np.clip(values / f32(6) + f32(0.5), 0, 1)


KINDS: dict[str, Callable[[Random, Shape], np.ndarray]] = {
    "ints": lambda random, shape: random.integers(0, random.integers(2, 256), shape),
    "bytes_": _bytes,
    "unit": lambda random, shape: _bytes(random, shape).astype(f32) / f32(255),
    "tf": lambda random, shape: (_bytes(random, shape).astype(f32) - f32(127)) / f32(128),
    "imagenet": lambda random, shape: (_bytes(random, shape).astype(f32) / f32(255) - f32(0.485)) / f32(0.229),
    "caffe": lambda random, shape: _bytes(random, shape).astype(f32) - f32(103.939),
    "normal": lambda random, shape: random.normal(0, 10.0 ** random.uniform(-4, 4), shape),
    "relu": lambda random, shape: np.maximum(random.normal(random.uniform(-1, 1), 1, shape), 0),
    "laplace": lambda random, shape: random.laplace(0, 1, shape),
    "heavy": lambda random, shape: random.standard_t(2, shape),
    "lognormal": lambda random, shape: np.exp(random.normal(0, random.uniform(0.2, 2), shape)),
    "uniform": lambda random, shape: random.uniform(-1, 1, shape),
    "sigmoid": lambda random, shape: 1 / (1 + np.exp(-random.normal(random.uniform(-5, 3), 2, shape))),
    "softmax": _softmax,
    "few": lambda random, shape: random.choice(random.normal(0, 1, int(random.integers(1, 20))), shape),
    "constant": lambda random, shape: np.full(shape, random.normal()),
    "two": lambda random, shape: random.choice([0, random.uniform(0.1, 3)], shape),
    "late": _late,
    "growing": _growing,
    "doubled": _doubled,
    "shrinking": lambda random, shape: random.normal(0, 1, shape) * (0.3 ** np.arange(shape[0]))[:, None],
    "tiny": lambda random, shape: random.normal(0, 1, shape) * 10.0 ** random.uniform(-36, -20),
    "huge": lambda random, shape: random.normal(0, 1, shape) * 10.0 ** random.uniform(10, 34),
    "negative": lambda random, shape: -np.abs(random.normal(0, 1, shape)),
    "clipped": lambda random, shape: np.clip(random.normal(2, 3, shape), 0, 6),
    "halves": lambda random, shape: np.rint(random.normal(0, 20, shape)) / 2,
    "outlier": _outlier,
    "hardswish": _hardswish,
    "dead": lambda _random, shape: np.zeros(shape),
    "sparse": lambda random, shape: np.where(random.uniform(size=shape) < 0.01, random.exponential(1, shape), 0),
}
