"""What a table and a report mean for a job: warnings."""

from typing import Any


def job_warnings(table_facts: dict[str, Any], report: dict[str, Any] | None) -> list[str]:
    """Return the codes of what a user should look at, those of the report first."""
    judged = report or {}
    found = {
        "judged_on_calibration": judged.get("judged_on") == "calibration",
        "perhaps_judged_on_calibration": judged.get("judged_on") == "perhaps calibration",
        "dead_tensors": bool(table_facts.get("dead")),
        "not_converged": not (table_facts.get("converge") or {"converged": True})["converged"],
        "images_skipped": bool(table_facts.get("skipped")),
    }
    return [*judged.get("warnings", []), *(name for name, is_so in found.items() if is_so)]
