"""Observations that are stored: of a part of the images, or of those that were known before."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from app.quant.observation import Observation, observation_from_bytes


def read_observation(path: str) -> Observation:
    """Return a stored observation. Raises CalibrationProblem where it is damaged."""
    return observation_from_bytes(Path(path).read_bytes())


@dataclass(frozen=True)
class Earlier:
    """So many images that were observed before. What was seen is read where it is first asked for, which takes the time of
    a few passes: best beside those of the images that were added. Raises CalibrationProblem then, where it is damaged.
    """

    path: str
    images: int

    @cached_property
    def observation(self) -> Observation:
        """What was seen of them."""
        return read_observation(self.path)
