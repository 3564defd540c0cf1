"""Run a batch of any size through an engine that takes only some sizes."""

from collections.abc import Callable

import numpy as np

Outputs = dict[str, np.ndarray]


def run_in_portions(run: Callable[[np.ndarray], Outputs], batch: np.ndarray, least: int, most: int) -> Outputs:
    """Return each output by name for the whole batch, of which `run` gets least to most images at once.

    A portion that is too small is filled up with its last image; what that adds to the outputs is dropped.
    """
    parts: list[Outputs] = []
    for start in range(0, len(batch), most):
        portion = batch[start : start + most]
        parts.append(_trimmed(run(_filled(portion, least)), len(portion), max(least, len(portion))))
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _filled(portion: np.ndarray, least: int) -> np.ndarray:
    missing = max(0, least - len(portion))
    return np.concatenate([portion, np.repeat(portion[-1:], missing, axis=0)]) if missing else portion


def _trimmed(outputs: Outputs, images: int, size: int) -> Outputs:
    if images == size:
        return outputs
    return {name: value[:images] if value.ndim and len(value) == size else value for name, value in outputs.items()}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    return np.stack(parts) if parts[0].ndim == 0 else np.concatenate(parts)
