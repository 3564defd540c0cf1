"""What a report and a table mean for a job: warnings."""

from typing import Any


def warnings_from_report(report: dict[str, Any], table_facts: dict[str, Any]) -> list[str]:
    """Return the codes of what a user should look at, those of the report first."""
    found = {
        "judged_on_calibration": report.get("judged_on") == "calibration",
        "dead_tensors": bool(table_facts.get("dead")),
        "images_skipped": bool(table_facts.get("skipped")),
    }
    return [*report.get("warnings", []), *(name for name, is_so in found.items() if is_so)]
