"""How far thresholds still moved as the images became more: told of every calibration that we count for."""

from collections.abc import Callable, Iterable
from typing import Any

from app.quant.convergence import Convergence
from app.quant.drift_points import doublings, line_from_points
from app.quant.observation import Observation, merge_observations
from app.worker.steps.known_observation import KnownObservation

Report = Callable[[dict[str, Any]], None]

#: These need no search, which would take longer than the counting of few images.
METHODS = ("minmax", "percentile")
#: Not the job's own: an observation serves jobs with any.
PERCENTILE = 99.99


def tell_nobody(_event: dict[str, Any]) -> None:
    """Take a report and do nothing."""


class Drift:
    """Looks at an observation as it grows, beginning with that of known images; each method is watched by itself.

    Reports a log line of each look but the first.
    """

    def __init__(self, known: KnownObservation | None = None, report: Report = tell_nobody) -> None:
        self._watched = [Convergence([method], PERCENTILE, fraction=0.0) for method in METHODS]
        self._images = 0
        self._known = known
        self._report = report

    @property
    def known_images(self) -> int:
        """How many images were known at first."""
        return self._known.images if self._known else 0

    def begin(self) -> None:
        """Look at the known images, if any, unless that was done; otherwise the first look does."""
        if self._known and not self._images:
            self._look(self._known.observation)

    def look_at_added(self, observation: Observation) -> None:
        """Look at the known images and those of observation."""
        self.look(merge_observations(self._known.observation, observation) if self._known else observation)

    def look(self, observation: Observation) -> None:
        """Note how far each method's amaxes moved since the last look, if any image came since: those left may be bad."""
        self.begin()
        if observation.images != self._images:
            self._look(observation)

    def _look(self, observation: Observation) -> None:
        self._images = observation.images
        for convergence in self._watched:
            convergence.look(observation)
        if points := [convergence.curve[-1] for convergence in self._watched if convergence.curve]:
            self._report({"log": line_from_points(points)})

    def facts(self, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return {"percentile", "points": those of earlier facts, then one a look and method, as `Convergence` has them}.

        Where newer points came, doublings alone are left of earlier ones, so that many small additions make no long curve.
        """
        points = [point for convergence in self._watched for point in convergence.curve]
        known = earlier["points"] if earlier else []
        newest = sorted(points, key=lambda point: point["images"])
        return {"percentile": PERCENTILE, "points": (doublings(known) if newest else known) + newest}


def look_at(drift: Drift | None, observations: Iterable[Observation]) -> None:
    """Have drift, if any, look at these one after the other."""
    if drift is not None:
        for observation in observations:
            drift.look(observation)
