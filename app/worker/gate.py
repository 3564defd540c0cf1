"""What a report means for its job: warnings, and the gate."""

from typing import Any

from app.errors import GateMissed, JudgeProblem
from app.spec import GateSpec

#: Below this agreement a job without a gate is warned of.
_LOW_AGREEMENT = 0.9


def warnings_from_report(report: dict[str, Any], table_facts: dict[str, Any]) -> list[str]:
    """Return the codes of what a user should look at."""
    agreement = report.get("agreement")
    found = {
        "accuracy_low": agreement is not None and agreement < _LOW_AGREEMENT,
        "judged_on_calibration": report.get("judged_on") == "calibration",
        "dead_tensors": bool(table_facts.get("dead")),
    }
    return [name for name, is_so in found.items() if is_so]


def check_gate(report: dict[str, Any], gate: GateSpec) -> None:
    """Raise GateMissed if the report is worse than the gate, JudgeProblem if it cannot tell."""
    misses = [miss for miss in (_agreement_miss(report, gate), _accuracy_miss(report, gate)) if miss]
    if misses:
        raise GateMissed(reason="; ".join(misses))


def _agreement_miss(report: dict[str, Any], gate: GateSpec) -> str | None:
    if gate.min_agreement is None:
        return None
    agreement = report.get("agreement")
    if agreement is None:
        raise JudgeProblem(reason="min_agreement needs a model with a classification output (2-D, float)")
    return f"agreement {agreement:.4f} is below {gate.min_agreement:.4f}" if agreement < gate.min_agreement else None


def _accuracy_miss(report: dict[str, Any], gate: GateSpec) -> str | None:
    if gate.max_accuracy_drop is None:
        return None
    exact, quantized = report.get("accuracy_fp32"), report.get("accuracy_int8")
    if exact is None or quantized is None:
        raise JudgeProblem(reason="max_accuracy_drop needs labelled judge images (a folder per class)")
    # rounded, so that a drop of exactly the limit passes whatever its last binary digit
    drop = round(exact - quantized, 9)
    return f"accuracy fell by {drop:.4f}, more than {gate.max_accuracy_drop:.4f}" if drop > gate.max_accuracy_drop else None
