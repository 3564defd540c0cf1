"""Find the fewest multiply-adds that must stay float for a target to hold, in a bounded number of trials."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import JudgeProblem
from app.quant.judge import judge_rank
from app.quant.sensitivity import Group
from app.spec import GateSpec

#: Without a gate: what is aimed at, and the share of multiply-adds that may stay float for it.
DEFAULT_AGREEMENT = 0.98
DEFAULT_SQNR_DB = 30.0
DEFAULT_LIMIT = 0.05
#: Groups are given back to INT8 one by one at the end, in so many trials, if they are this share of all that is excluded:
#: agreement is counted on few images, which do not tell that a small group with a large loss is needed.
_MOST_RETURNS = 8
_LEAST_RETURN = 0.1
#: Shares are quotients of whole numbers, compared as float64.
_ROUNDING = 1e-9
#: Where so many images are to be expected to change, none does with the probability of one standard error: exp(-0.17) = 0.84.
_NONE_EXPECTED = 0.17

Report = Mapping[str, Any]
Trial = Callable[[Sequence[Group]], Report]


@dataclass(frozen=True)
class Target:
    """What must hold; with `is_sampled` (other images than the final ones) by one standard error more.

    Then the agreement to expect must hold with that to spare, since votes are chance, and the votes the target itself. Of
    few images, or for no change at all, that could never be: there it must be as sure that no image changes.
    """

    gate: GateSpec | None
    is_sampled: bool

    def holds(self, report: Report) -> bool:
        """Whether a judge's report reaches the target. Raises JudgeProblem where that cannot be told.

        Without labels the share of images whose class changed stands for the loss of accuracy, which is never larger.
        """
        if self.gate is None and report["agreement"] is None:
            return all(o["sqnr_db"] is None or o["sqnr_db"] >= DEFAULT_SQNR_DB for o in report["outputs"].values())
        if report["agreement"] is None:
            raise JudgeProblem(reason="a gate needs an output of shape [N, classes], which the model has not")
        gate = self.gate or GateSpec(min_agreement=DEFAULT_AGREEMENT)
        images, changed = report["images"], 1 - report["agreement"]
        drop = changed if report["accuracy_drop"] is None else report["accuracy_drop"]
        holds = gate.max_accuracy_drop is None or drop <= self._allowed(gate.max_accuracy_drop, images)
        if gate.min_agreement is None or not holds:
            return holds
        limit = 1 - gate.min_agreement
        return changed <= limit + _ROUNDING and (not self.is_sampled or self._is_expected(report, limit))

    def _is_expected(self, report: Report, limit: float) -> bool:
        images = report["images"]
        allowed = max(limit - _standard_error(limit, images), _NONE_EXPECTED / images)
        return 1 - report["expected_agreement"] <= allowed + _ROUNDING

    def _allowed(self, share: float, images: int) -> float:
        """Return the share of images that may go wrong: with a standard error to spare, rounded to whole images."""
        if not self.is_sampled:
            return share + _ROUNDING
        return round(max(0.0, share - _standard_error(share, images)) * images) / images + _ROUNDING

    def to_json(self) -> dict[str, Any]:
        """Return what was aimed at."""
        if self.gate is not None:
            return self.gate.model_dump(mode="json", exclude_none=True)
        return {"min_agreement": DEFAULT_AGREEMENT, "or_sqnr_db": DEFAULT_SQNR_DB}


def _standard_error(share: float, images: int) -> float:
    return math.sqrt(share * (1 - share) / images)


@dataclass
class Search:
    """Tries sets of groups in float, each once."""

    trial: Trial
    target: Target
    tried: dict[tuple[str, ...], tuple[Sequence[Group], Report]] = field(default_factory=dict)

    def holds(self, groups: Sequence[Group]) -> bool:
        """Whether the target holds with these groups in float."""
        return self.target.holds(self.report(groups))

    def report(self, groups: Sequence[Group]) -> Report:
        """Return what the judge says of these groups in float."""
        key = tuple(sorted(group.output for group in groups))
        if key not in self.tried:
            self.tried[key] = (groups, self.trial(groups))
        return self.tried[key][1]

    def best(self) -> Sequence[Group]:
        """Return the tried groups that err least, of equals those that agree best: small differences in votes are chance."""
        return min(self.tried.values(), key=lambda found: (found[1]["mean_error"] or 0.0, judge_rank(found[1])))[0]


def find_exclusion(search: Search, ordered: Sequence[Group]) -> list[Group]:
    """Return the groups to leave in float: the shortest start of `ordered` that holds, less the large ones that it does not
    need.

    Where not even all of them hold, those of the tried ones that err least.
    """
    if search.holds([]):
        return []
    if not search.holds(ordered):
        return list(search.best())
    low, high = 0, len(ordered)  # the first `low` do not hold, the first `high` do
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if search.holds(ordered[:middle]) else (middle, high)
    return _without_needless(search, list(ordered[:high]))


def find_final(search: Search, chosen: Sequence[Group], ordered: Sequence[Group]) -> list[Group]:
    """Return the groups to leave in float by a search whose trials are the models that are kept.

    These are `chosen`, by trials that were nearly the same, and the next ones of `ordered`, each time twice as many, as long
    as the target is missed after all. Where it is missed with all of them, those that err least.
    """
    taken, rest, step = list(chosen), [group for group in ordered if group not in chosen], 1
    while not search.holds(taken) and rest:
        taken, rest, step = taken + rest[:step], rest[step:], 2 * step
    return taken if search.holds(taken) else list(search.best())


def _without_needless(search: Search, chosen: list[Group]) -> list[Group]:
    least = _LEAST_RETURN * sum(group.share for group in chosen)
    by_cost = sorted(chosen, key=lambda group: -group.share)
    for group in [group for group in by_cost if group.share > least][:_MOST_RETURNS]:
        rest = [each for each in chosen if each is not group]
        if search.holds(rest):
            chosen = rest
    return chosen
