"""A job's outcome in a few lines for people."""

from collections.abc import Iterator
from typing import Any

#: Of what stays float, or loses most, so much is named.
_SHOWN_NAMES = 4


def lines_from_outcome(job: dict[str, Any]) -> list[str]:
    """Return what somebody wants to know of an ended job; `report` and `plan` are added to it where there are any."""
    return [f"{label:10} {text}" for label, text in _facts(job)]


def format_share(share: float | None) -> str:
    """Return a share of 0 to 1 in percent, a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def format_cache(cache: dict[str, Any]) -> str:
    """Return which steps were found: `observation hit, table hit, engine miss (never computed)`."""
    steps = [f"{step} {cache[step]}" for step in ("observation", "table", "engine") if cache.get(step)]
    return ", ".join(steps) + (f" ({cache['reason']})" if cache.get("reason") else "")


def _facts(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "job", f"{job['id']} {job['state']}"
    for label in ("table", "engine"):
        if job.get(f"{label}_id"):
            yield label, job[f"{label}_id"]
    yield from _measured(job.get("report") or {})
    if job.get("cache"):
        yield "cache", format_cache(job["cache"])
    if job.get("warnings"):
        yield "warnings", ", ".join(str(warning) for warning in job["warnings"])
    if job.get("plan"):
        yield "plan", job["plan"]


def _measured(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if report.get("method"):
        yield "method", str(report["method"])
    if report.get("agreement") is not None:
        yield "agreement", format_share(report["agreement"])
    accuracies = accuracies_from_report(report)
    if accuracies["fp32"] is not None:
        yield "accuracy", f"FP32 {format_share(accuracies['fp32'])}, INT8 {format_share(accuracies['int8'])}"
    if report.get("exclude"):
        found = report["exclude"]
        aim = "target reached" if found["reached"] else "target not reached"
        names = ", ".join(found["excluded"][:_SHOWN_NAMES]) + (", ..." if len(found["excluded"]) > _SHOWN_NAMES else "")
        yield "float", f"{format_share(found['share'])} of multiply-adds ({names or 'nothing'}); {aim} on {found['chosen_on']}"
    elif report.get("sensitivity"):
        yield "sensitive", ", ".join(row["node"] for row in report["sensitivity"]["groups"][:_SHOWN_NAMES])
    latency = report.get("latency")
    if latency:
        told = (f"{name.upper()} {figures['median_ms']} ms" for name, figures in latency["precisions"].items())
        yield "latency", f"{', '.join(told)}, a batch of {latency['batch']}"


def accuracies_from_report(report: dict[str, Any]) -> dict[str, float | None]:
    """Return the accuracy of FP32 and INT8, None without labels."""
    return {name: report.get(f"accuracy_{name}") for name in ("fp32", "int8")}
