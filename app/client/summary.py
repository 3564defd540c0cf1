"""A job's outcome in a few lines for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.quant.drift_points import last_doubling

#: Of what stays float, or loses most, so much is named.
_SHOWN_NAMES = 4


def lines_from_outcome(job: dict[str, Any]) -> list[str]:
    """Return what somebody wants to know of an ended job; `report`, else `table`, and `plan` are added where there are any."""
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
    yield from _calibrated(job.get("report") or job.get("table") or {})
    yield from _weights((job.get("report") or {}).get("engine") or {})
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


def lines_from_curve(told: Mapping[str, Any]) -> list[str]:
    """Return a line for every doubling of the images that a table or report tells of; none where it tells nothing."""
    drift = told.get("drift") or {"points": []}
    spans = dict.fromkeys((point["since"], point["images"]) for point in drift["points"])
    return [_moved([point for point in drift["points"] if (point["since"], point["images"]) == span]) for span in spans]


def _moved(points: Sequence[Mapping[str, Any]]) -> str:
    most = (f"{point['method']} {_format_drift(point['drift'])} ({point['tensor'] or 'no tensor'})" for point in points)
    return f"from {points[0]['since']} to {points[0]['images']} images amax moved at most by {', '.join(most)}"


def _format_drift(drift: float | None) -> str:
    return "from zero" if drift is None else format_share(drift)


def _calibrated(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    converge = told.get("converge")
    if converge:
        within = f"within {100 * converge['fraction']:g} %"
        used = f"{converge['images']} of {converge['of']} images"
        yield "converge", f"{used} sufficed, {within}" if converge["converged"] else f"{used} did not suffice, {within}"
    drift = told.get("drift") or {"points": []}
    if last := last_doubling(drift["points"]):
        yield "drift", _moved(last)


def _weights(engine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for pair in sorted(engine.get("equalized") or [], key=_gain, reverse=True)[:1]:
        more = len(engine["equalized"]) - 1
        ratios = f"{pair['ratio_before'] or 1:.1f} to {pair['ratio_after'] or 1:.1f}"
        yield "equalized", f"{pair['first']} and {pair['second']}, channels from {ratios}" + (f", {more} more" if more else "")
    rows = engine.get("channels") or []
    uneven = [f"{row['node']} {row['ratio']:.1f}-fold" for row in rows if row["faint"]["count"]]
    dead, lost = (
        [f"{row[what]['count']} of {row['node']}" for row in rows if row[what]["count"]] for what in ("dead", "lost_inputs")
    )
    for label, told in (("uneven", uneven), ("dead", dead), ("lost", lost)):
        if told:
            yield label, f"channels: {', '.join(told[:_SHOWN_NAMES])}" + (", ..." if len(told) > _SHOWN_NAMES else "")


def _gain(pair: Mapping[str, Any]) -> float:
    return (pair["ratio_before"] or 1) / (pair["ratio_after"] or 1)


def accuracies_from_report(report: dict[str, Any]) -> dict[str, float | None]:
    """Return the accuracy of FP32 and INT8, None without labels."""
    return {name: report.get(f"accuracy_{name}") for name in ("fp32", "int8")}
