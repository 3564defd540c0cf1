"""The step exclude: find what must stay float for the target to hold, and write the Q/DQ model without it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from app.engines.reference import Reference
from app.engines.sensitivity import groups_from_sensitivity
from app.quant.exclusion import DEFAULT_LIMIT, Report, Search, Target, find_exclusion, find_final
from app.quant.qdq import QuantizedModel, model_to_bytes
from app.quant.sensitivity import Group, order_groups, within_limit
from app.spec import JobSpec
from app.worker.steps.images import choosing_files
from app.worker.steps.quantize import Quantizer, read_table
from app.worker.steps.sensitivity import measure_pair, measured_spec, open_reference

_KEPT = ("agreement", "expected_agreement", "accuracy_fp32", "accuracy_int8", "mean_error", "images")


def exclude(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the Q/DQ model to `out`; return {"placement": its report, "exclude": what was found}.

    The model is the one of a job that names what was found, byte for byte, and the target was checked on it.

    exclude: excluded: names of what stays float · share: of the multiply-adds, by the exclusion alone · target, limit: what was
    aimed at · reached · chosen_on, images: on what · trials: [{excluded: how many groups, share, figures}] · final: the same
    of the models that were made to be kept, the last one or the best one was · sensitivity: see that step. request: that of
    the step sensitivity, and {"out": path}. Raises EngineProblem, JudgeProblem, ImageCorrupt.
    """
    spec = JobSpec.model_validate(request["spec"])
    quantizer = Quantizer(onnx.load(request["model"]), read_table(request["table"]), request, report)
    chosen = choosing_files(request, spec)
    target = Target(spec.judge.gate, chosen.is_sampled)
    limit = spec.quantize.max_excluded or (1.0 if spec.judge.gate else DEFAULT_LIMIT)
    with open_reference(request, chosen) as reference:
        measured = measure_pair(quantizer, spec, reference, report)
        every = groups_from_sensitivity(measured)
        ordered = order_groups(every, measured["all_int8"]["loss"])
        total = 1.0 if measured["unmeasured"] else sum(group.share for group in every)
        trials = _Trials(spec, quantizer, reference, report)
        search, final = Search(trials.try_out, target), Search(trials.make, target)
        groups = _find(search, final, within_limit(ordered, limit, total))
    found = {
        "excluded": [group.output for group in groups],
        "share": sum(group.share for group in groups),
        "target": target.to_json(),
        "limit": limit,
        "reached": final.holds(groups),
        "chosen_on": chosen.source,
        "images": reference.images,
        "trials": _rows(search),
        "final": _rows(final),
        "sensitivity": measured | {"chosen_on": chosen.source},
    }
    kept = trials.made[_names(groups)]
    Path(request["out"]).write_bytes(model_to_bytes(kept.model))
    return {"placement": kept.report, "exclude": found}


def _find(search: Search, final: Search, candidates: Sequence[Group]) -> list[Group]:
    groups = find_exclusion(search, candidates)
    if not search.holds(groups):
        final.report(groups)  # more does not help: these were the best of all
        return groups
    return find_final(final, groups, candidates)


@dataclass
class _Trials:
    """Makes Q/DQ models and compares them; `made`: those to be kept, by what they exclude."""

    spec: JobSpec
    quantizer: Quantizer
    reference: Reference
    report: Callable[[dict[str, Any]], None]
    made: dict[tuple[str, ...], QuantizedModel] = field(default_factory=dict)

    def try_out(self, groups: Sequence[Group]) -> Report:
        quantized = self.quantizer.quantize_for_trial(measured_spec(self.spec, _names(groups)))
        return self._compare(quantized, f"{len(groups)} groups in float")

    def make(self, groups: Sequence[Group]) -> Report:
        names = _names(groups)
        self.made[names] = self.quantizer.quantize(self.spec.quantize.excluding(names))
        return self._compare(self.made[names], f"{len(groups)} groups in float, as it is kept")

    def _compare(self, quantized: QuantizedModel, words: str) -> Report:
        found = self.reference.compare(quantized.model)
        self.report({"log": f"{words}: {_figure(found)}"})
        return found


def _names(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(sorted(group.output for group in groups))


def _rows(search: Search) -> list[dict[str, Any]]:
    return [
        {"excluded": len(groups), "share": sum(group.share for group in groups)} | {name: found[name] for name in _KEPT}
        for groups, found in search.tried.values()
    ]


def _figure(report: Report) -> str:
    if report["agreement"] is not None:
        return f"agreement {report['agreement']:.4f}, {report['expected_agreement']:.4f} to expect of other images"
    return f"mean error {report['mean_error']:.6g}"
