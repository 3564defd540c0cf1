"""What each group of INT8 nodes costs, and which groups in float help most for their multiply-adds.

A group is a node that reads INT8, with the Q/DQ pairs of its inputs. Its loss is the noise-to-signal ratio of the
outputs, sum (r - t)^2 / sum r^2, which adds up over groups nearly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: A group whose return to float takes less than this share of the whole loss away is not worth it.
_LEAST_GAIN = 0.005
#: A group without multiply-adds costs its Q/DQ pair all the same: this share of all multiply-adds is put down for it.
_LEAST_COST = 2e-3
#: Shares are float64 sums.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Group:
    """A group by its node's first output; `share` of the model's multiply-adds, and what it takes away if it is float."""

    output: str
    name: str
    share: float
    gain: float

    @property
    def worth(self) -> float:
        """Loss taken away per share of multiply-adds."""
        return self.gain / max(self.share, _LEAST_COST)


def loss_from_report(report: Mapping[str, Any]) -> float:
    """Return the noise-to-signal ratio of a judge's report: of the classification output, else the mean of all."""
    chosen = report["classification_output"]
    outputs = [report["outputs"][chosen]] if chosen else list(report["outputs"].values())
    ratios = [0.0 if output["sqnr_db"] is None else 10 ** (-output["sqnr_db"] / 10) for output in outputs]
    return sum(ratios) / len(ratios) if ratios else 0.0


def order_groups(groups: Sequence[Group], loss: float) -> list[Group]:
    """Return the groups that are worth being float, of a model that loses `loss` in all, the best worth first."""
    helpful = [group for group in groups if group.gain > 0 and group.gain >= _LEAST_GAIN * loss]
    return sorted(helpful, key=lambda group: (-group.worth, group.name))


def within_limit(ordered: Sequence[Group], limit: float, total: float = 1.0) -> list[Group]:
    """Return the groups, in order, that together have no more than this share of the multiply-adds, and less than `total`.

    total: the share of all groups, which is less than 1 where nodes stay float anyway: something must remain in INT8.
    """
    chosen: list[Group] = []
    for group in ordered:
        share = sum(each.share for each in chosen) + group.share
        if share <= limit and share < total - _ROUNDING:
            chosen.append(group)
    return chosen
