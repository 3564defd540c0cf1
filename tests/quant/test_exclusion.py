"""The search for the fewest multiply-adds in float: on losses that add up, as those of real groups nearly do."""

from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import JudgeProblem
from app.quant.exclusion import DEFAULT_LIMIT, Search, Target, find_exclusion, find_final
from app.quant.sensitivity import Group, loss_from_report, order_groups, within_limit
from app.spec import GateSpec

GROUPS = [
    Group(f"g{n}", f"g{n}", share, gain) for n, (share, gain) in enumerate([(0.5, 30.0), (0.1, 9.0), (0.02, 4.0), (0.01, 3.0)])
]
LOSS = 50.0


def report(agreement: float | None, images: int = 1000, drop: float | None = None, **others: float) -> dict[str, Any]:
    outputs = {"y": {"sqnr_db": others.pop("sqnr", 20.0)}}
    votes = {"agreement": agreement, "expected_agreement": agreement, "accuracy_drop": drop}
    return votes | {"images": images, "mean_error": 1.0, "outputs": outputs} | others


def search(agreement: float) -> Search:
    def trial(groups: Sequence[Group]) -> dict[str, Any]:
        return report(1 - (LOSS - sum(group.gain for group in groups)) / 1000)

    return Search(trial, Target(GateSpec(min_agreement=agreement), is_sampled=False))


def test_order_is_by_worth_and_leaves_out_what_gains_nothing() -> None:
    nothing = [Group("free", "free", 0.0, 0.01), Group("harmful", "harmful", 0.1, -1.0)]
    assert [group.output for group in order_groups([*GROUPS, *nothing], LOSS)] == ["g3", "g2", "g1", "g0"]
    free = Group("free", "free", 0.0, 1.0)
    assert order_groups([*GROUPS, free], LOSS)[0] is free


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [(0.95, []), (0.953, ["g3"]), (0.957, ["g3", "g2"]), (0.966, ["g3", "g2", "g1"]), (0.98, ["g3", "g2", "g0"])],
)
def test_the_fewest_multiply_adds(agreement: float, expected: list[str]) -> None:
    looked_for = search(agreement)
    found = find_exclusion(looked_for, order_groups(GROUPS, LOSS))
    assert [group.output for group in found] == expected
    assert len(looked_for.tried) <= 8
    assert looked_for.holds(found)


def test_where_nothing_suffices_the_best_is_kept() -> None:
    looked_for = search(0.99)
    limited = within_limit(order_groups(GROUPS, LOSS), DEFAULT_LIMIT)
    assert [group.output for group in limited] == ["g3", "g2"]
    assert find_exclusion(looked_for, limited) == limited
    assert not looked_for.holds(limited)


def test_what_is_kept_is_judged_and_more_is_excluded_where_it_misses() -> None:
    ordered = order_groups(GROUPS, LOSS)
    final = search(0.966)  # holds with the first three
    assert find_final(final, ordered[:3], ordered) == ordered[:3]
    assert len(final.tried) == 1
    later = search(0.966)
    assert find_final(later, ordered[:1], ordered) == ordered
    assert [len(groups) for groups, _ in later.tried.values()] == [1, 2, 4]
    never = search(0.99)
    assert find_final(never, ordered[:2], ordered[:3]) == ordered[:3]
    assert not never.holds(ordered[:3])


def test_other_images_need_a_standard_error_more() -> None:
    target = Target(GateSpec(min_agreement=0.98), is_sampled=True)
    # Of 1000 images 20 may differ; a standard error is 4.4 of them.
    assert target.holds(report(0.98, expected_agreement=0.9845))
    assert not target.holds(report(0.98, expected_agreement=0.984))
    assert not target.holds(report(0.979, expected_agreement=0.99))
    assert Target(GateSpec(min_agreement=0.98), is_sampled=False).holds(report(0.98, expected_agreement=0.5))
    assert target.holds(report(126 / 128, 128, expected_agreement=0.993))
    assert not target.holds(report(1.0, 128, expected_agreement=0.992))


@pytest.mark.parametrize("images", [8, 32, 48])
@pytest.mark.parametrize("agreement", [0.98, 1.0])
def test_a_target_can_be_reached_on_few_images(images: int, agreement: float) -> None:
    target = Target(GateSpec(min_agreement=agreement), is_sampled=True)
    assert target.holds(report(1.0, images, expected_agreement=1 - 0.16 / images))
    assert not target.holds(report(1.0, images, expected_agreement=1 - 0.18 / images))
    assert not target.holds(report(1 - 1 / images, images, expected_agreement=1.0))


def test_where_nothing_suffices_votes_do_not_decide() -> None:
    reports = {0: report(0.97, mean_error=0.06), 1: report(0.96, mean_error=0.03), 2: report(0.965, mean_error=0.03)}
    looked_for = Search(lambda groups: reports[len(groups)], Target(GateSpec(min_agreement=0.99), is_sampled=False))
    for count in reports:
        looked_for.report(GROUPS[:count])
    assert looked_for.best() == GROUPS[:2]


def test_accuracy_and_models_without_classes() -> None:
    target = Target(GateSpec(max_accuracy_drop=0.01), is_sampled=False)
    assert target.holds(report(0.5, drop=0.01))
    assert not target.holds(report(0.99, drop=0.011))
    assert not target.holds(report(0.98))  # without labels each change of class counts as a loss
    assert target.holds(report(0.99))
    assert Target(None, is_sampled=True).holds(report(None, sqnr=30.0))
    assert not Target(None, is_sampled=True).holds(report(None, sqnr=29.9))


def test_a_gate_without_classes_is_told() -> None:
    with pytest.raises(JudgeProblem, match="classes"):
        Target(GateSpec(min_agreement=0.9), is_sampled=True).holds(report(None))


def test_something_stays_int8() -> None:
    whole = [Group("a", "a", 0.7, 2.0), Group("b", "b", 0.3, 1.0)]
    assert within_limit(order_groups(whole, 3.0), 1.0) == [whole[1]]
    assert within_limit([Group("only", "only", 1.0, 1.0)], 1.0) == []
    beside_float = [Group("a", "a", 0.2, 1.0), Group("b", "b", 0.4, 1.0)]  # 0.4 of the multiply-adds stay float anyway
    assert within_limit(order_groups(beside_float, 2.0), 1.0, 0.6) == [beside_float[0]]


def test_loss_is_that_of_the_classes_else_of_all_outputs() -> None:
    outputs = {"classes": {"sqnr_db": 20.0}, "boxes": {"sqnr_db": 10.0}, "same": {"sqnr_db": None}}
    assert loss_from_report({"classification_output": "classes", "outputs": outputs}) == pytest.approx(0.01)
    assert loss_from_report({"classification_output": None, "outputs": outputs}) == pytest.approx(0.11 / 3)
