"""Two tables side by side."""

from app.quant.table_diff import diff_scales, exceeds


def test_the_largest_drift_comes_first_in_either_direction() -> None:
    found = diff_scales({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.1, "b": 0.5, "c": 1.0, "d": 1.0})
    assert [(row["tensor"], row["ratio"]) for row in found["tensors"]] == [("b", 0.5), ("a", 1.1), ("c", 1.0)]
    assert (found["max_drift"], found["only_in_first"], found["only_in_second"]) == (1.0, [], ["d"])


def test_what_exceeds() -> None:
    same, moved = {"a": 1.0}, {"a": 1.25}
    assert not exceeds(diff_scales(same, same), 0)
    assert not exceeds(diff_scales(same, moved), 0.25)
    assert exceeds(diff_scales(moved, same), 0.2499)
    assert exceeds(diff_scales(same, same | {"b": 1.0}), 10)
    assert exceeds(diff_scales(same, {"b": 1.0}), 10)
