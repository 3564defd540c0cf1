"""The step exclude: find what must stay float for the target to hold, and write the Q/DQ model without it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from app.engines.sensitivity import groups_from_sensitivity
from app.quant.exclusion import DEFAULT_LIMIT, Report, Search, Target, find_exclusion
from app.quant.sensitivity import Group, order_groups, within_limit
from app.spec import JobSpec
from app.worker.steps.images import choosing_files
from app.worker.steps.quantize import Quantizer, read_table
from app.worker.steps.sensitivity import measure_pair, measured_spec, open_reference

_KEPT = ("agreement", "accuracy_fp32", "accuracy_int8", "mean_error", "images")


def exclude(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the Q/DQ model to `out`; return {"placement": its report, "exclude": what was found}.

    exclude: excluded: names of what stays float · share: of the multiply-adds, by the exclusion alone · target, limit: what was
    aimed at · reached · chosen_on, images: on what · trials: [{excluded: how many groups, share, figures}] ·
    sensitivity: see that step. request: that of the step sensitivity, and {"out": path}.
    Raises EngineProblem, JudgeProblem, ImageCorrupt.
    """
    spec = JobSpec.model_validate(request["spec"])
    quantizer = Quantizer(onnx.load(request["model"]), read_table(request["table"]), request, report)
    chosen = choosing_files(request, spec)
    target = Target(spec.judge.gate, chosen.is_sampled)
    limit = spec.quantize.max_excluded or (1.0 if spec.judge.gate else DEFAULT_LIMIT)
    with open_reference(request, chosen) as reference:
        measured = measure_pair(quantizer, spec, reference, report)

        def trial(groups: Sequence[Group]) -> Report:
            quantized = quantizer.quantize(measured_spec(spec, (group.output for group in groups)))
            found = reference.compare(quantized.model)
            report({"log": f"{len(groups)} groups in float: {_figure(found)}"})
            return found

        search = Search(trial, target)
        ordered = order_groups(groups_from_sensitivity(measured), measured["all_int8"]["loss"])
        groups = find_exclusion(search, within_limit(ordered, limit))
    found = {
        "excluded": [group.output for group in groups],
        "share": sum(group.share for group in groups),
        "target": target.to_json(),
        "limit": limit,
        "reached": search.holds(groups),
        "chosen_on": chosen.source,
        "images": reference.images,
        "trials": [_trial_row(*each) for each in search.tried.values()],
        "sensitivity": measured | {"chosen_on": chosen.source},
    }
    return {"placement": quantizer.write(spec.quantize.excluding(found["excluded"]), Path(request["out"])), "exclude": found}


def _trial_row(groups: Sequence[Group], report: Report) -> dict[str, Any]:
    return {"excluded": len(groups), "share": sum(group.share for group in groups)} | {name: report[name] for name in _KEPT}


def _figure(report: Report) -> str:
    if report["agreement"] is not None:
        return f"agreement {report['agreement']:.4f}"
    return f"mean error {report['mean_error']:.6g}"
