"""Observations that are stored: of a part of the images, or of those that were known before."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from app.quant.observation import Observation, observation_from_bytes


def read_observation(path: str) -> Observation:
    """Return a stored observation. Raises CalibrationProblem where it is damaged."""
    return observation_from_bytes(Path(path).read_bytes())


@dataclass(frozen=True)
class KnownObservation:
    """What was seen of `images` images before; read where it is first asked for, best beside the pass over those added."""

    path: str
    images: int

    @cached_property
    def observation(self) -> Observation:
        """The observation. Raises CalibrationProblem where it is damaged."""
        return read_observation(self.path)
