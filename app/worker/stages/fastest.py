"""placement measured: the sensible Q/DQ placements of a model built and timed on this GPU; the fastest that is good enough."""

from dataclasses import replace
from typing import Any

from app.db import results
from app.db.rows import EngineRow, TableRow
from app.errors import GateMissed, JudgeProblem
from app.quant.judge import check_gate
from app.spec import Placement
from app.worker.context import Run
from app.worker.stages.build import engine_key, find_or_build
from app.worker.stages.judge import find_or_judge
from app.worker.stages.latency import STEP as LATENCY_STEP
from app.worker.stages.quantize import find_or_quantize

#: Of equally fast ones the first is kept.
_CANDIDATES: tuple[Placement, ...] = ("fused", "default", "conservative")


def find_or_build_fastest(run: Run, table: TableRow) -> EngineRow:
    """Return the fastest engine of all placements that can be judged and passes the job's gate, or of all where none does.

    It is stored under the job's own key, with the figures of every placement in its metadata as `placements`; `refused`
    says why one failed.
    """
    key = engine_key(run.job, table)
    with run.claim(key):
        with run.worker.database.reading() as session:
            known = results.find_engine(session, key)
        return known if known and run.worker.blobs.has(known.plan) else _choose(run, table, key)


def _choose(run: Run, table: TableRow, key: str) -> EngineRow:
    engines = _build_distinct(run, table)
    run.enter("build")
    plans = {name: str(run.worker.blobs.fetch(engine.plan)) for name, engine in engines.items()}
    timed = run.child(LATENCY_STEP, {"backend": "tensorrt", "plans": plans, "shape": None})["precisions"]
    order: list[Placement] = list(engines)
    order.sort(key=lambda name: timed[name]["median_ms"])
    figures: dict[str, Any] = {name: dict(timed[name]) for name in order}
    chosen = order[0]
    for name in order:
        if _passes(run, name, (engines[name], table), figures):
            chosen = name
            break
    run.say(f"placement {chosen} is kept: " + ", ".join(f"{name} {timed[name]['median_ms']} ms" for name in order))
    best = engines[chosen]
    row = EngineRow(
        key=key, model_id=best.model_id, table_id=best.table_id, backend=best.backend, precision=best.precision, plan=best.plan,
        plan_bytes=best.plan_bytes, facts=best.facts | {"placement": chosen, "placements": figures},
    )  # fmt: skip
    with run.worker.database.transaction() as session:
        return results.save_engine(session, row)


def _build_distinct(run: Run, table: TableRow) -> dict[Placement, EngineRow]:
    """Build one engine for each placement that gives another Q/DQ model than those before it."""
    engines: dict[Placement, EngineRow] = {}
    bodies: set[str] = set()
    for name in _CANDIDATES:
        body = find_or_quantize(_placed(run, name), table).body
        if body not in bodies:
            bodies.add(body)
            engines[name] = find_or_build(_placed(run, name), table)
    return engines


def _passes(run: Run, name: Placement, built: tuple[EngineRow, TableRow], figures: dict[str, Any]) -> bool:
    """Whether the plan can be judged, for one that overflows is no candidate, and holds the gate, if there is one."""
    if not run.job.is_judged:
        return True
    try:
        report = find_or_judge(_placed(run, name), *built).report
        figures[name] |= {"agreement": report["agreement"], "accuracy": report["accuracy_int8"]}
        if run.job.spec.judge.gate is not None:
            check_gate(report, run.job.spec.judge.gate)
    except (GateMissed, JudgeProblem) as problem:
        figures[name]["refused"] = problem.detail
        run.say(f"placement {name}: {problem.detail}")
        return False
    return True


def _placed(run: Run, name: Placement) -> Run:
    quantize = run.job.spec.quantize.model_copy(update={"placement": name})
    judge = run.job.spec.judge.model_copy(update={"latency": False})
    spec = run.job.spec.model_copy(update={"quantize": quantize, "judge": judge})
    return replace(run, job=run.job.model_copy(update={"spec": spec}))
