"""What a table and a report mean for a job: warnings."""

from typing import Any

#: So many images that are copies are of no weight: one in ten.
_REPEATED_SHARE = 10


def job_warnings(table_facts: dict[str, Any], report: dict[str, Any] | None) -> list[str]:
    """Return the codes of what a user should look at, those of the report first."""
    judged = report or {}
    found = {
        "judged_on_calibration": judged.get("judged_on") == "calibration",
        "perhaps_judged_on_calibration": judged.get("judged_on") == "perhaps calibration",
        "dead_tensors": bool(table_facts.get("dead")),
        "not_converged": not (table_facts.get("converge") or {"converged": True})["converged"],
        "images_skipped": bool(table_facts.get("skipped")),
        "images_repeated": _REPEATED_SHARE * (table_facts.get("repeated_images") or 0) > (table_facts.get("images") or 0),
        "images_mixed": bool(table_facts.get("mixed_tensors")),
        "images_constant": bool(table_facts.get("constant_images")),
    }
    return [*judged.get("warnings", []), *(name for name, is_so in found.items() if is_so)]
