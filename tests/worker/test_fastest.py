"""placement measured: every sensible placement is built and timed; the fastest that passes the gate is the job's engine."""

from pathlib import Path
from typing import Any

import pytest

from app.worker.stages import build, fastest, judge
from tests.worker.gpu_worker import gpu_run, save_table

FAULTS = "tests.child.faults"


@pytest.fixture(autouse=True)
def _steps_need_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[1] / "child" / "run_fault.py"
    monkeypatch.setattr("app.child.process.CHILD_MODULE", ["-c", source.read_text(encoding="utf-8")])
    monkeypatch.setattr(build, "STEP", f"{FAULTS}:build_by_name")
    monkeypatch.setattr(fastest, "LATENCY_STEP", f"{FAULTS}:time_by_name")
    monkeypatch.setattr(judge, "PLANS_STEP", f"{FAULTS}:judge_by_name")


def spec(gate: dict[str, Any] | None) -> dict[str, Any]:
    engine = {"backend": "tensorrt", "precision": "int8"}
    calibration = {"method": "minmax"}
    chosen = {"placement": "measured", "float_type": "fp32"}
    return {"dataset": "d", "calibration": calibration, "engine": engine, "quantize": chosen, "judge": {"gate": gate}}


@pytest.mark.parametrize(
    ("gate", "kept"), [(None, "fused"), ({"min_agreement": 0.9}, "default"), ({"min_agreement": 0.4}, "fused")]
)
def test_the_fastest_that_is_good_enough_is_kept(tmp_path: Path, gate: dict[str, Any] | None, kept: str) -> None:
    with gpu_run(tmp_path, spec(gate)) as run:
        table = save_table(run)
        engine = fastest.find_or_build_fastest(run, table)
        assert engine.facts["placement"] == kept
        figures = engine.facts["placements"]
        assert min(figures, key=lambda name: figures[name]["median_ms"]) == "fused"
        assert len(figures) >= 2
        assert [name for name in figures if "refused" in figures[name]] == (["fused"] if kept == "default" else [])
        again = fastest.find_or_build_fastest(run, table)
        assert again.id == engine.id


def test_a_plan_that_overflows_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "PLANS_STEP", f"{FAULTS}:judge_what_overflows")
    with gpu_run(tmp_path, spec(gate=None)) as run:
        engine = fastest.find_or_build_fastest(run, save_table(run))
        assert engine.facts["placement"] == "default"
        figures = engine.facts["placements"]
        assert figures["default"]["agreement"] == 1.0
        assert "NaN or infinity" in figures["fused"]["refused"]
