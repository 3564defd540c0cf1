"""The cache text that an implicit build is given."""

from pathlib import Path

import numpy as np
import pytest

from app.quant.table import table_from_scales, table_to_text
from app.quant.trt_cache import parse_trt_cache
from app.worker.steps.build import write_cache
from tests.quant.samples import parse_oracle
from tests.running import MODEL


@pytest.mark.parametrize("kept", [{}, {"10.weight_output": 127 * 0.5}])
def test_constants_are_those_that_were_imported_else_measured(tmp_path: Path, kept: dict[str, float]) -> None:
    scales = {name: scale for name, scale in parse_oracle("minmax").items() if name in ("input", "output")}
    (tmp_path / "table").write_text(table_to_text(table_from_scales(scales)), encoding="utf-8")
    request = {"model": str(MODEL), "table": str(tmp_path / "table"), "native_cache": None, "kept": kept}
    found = parse_trt_cache(write_cache(request | {"out": str(tmp_path / "plan")}).read_bytes()).scales
    assert scales.items() <= found.items()
    measured = float(parse_oracle("minmax")["10.weight_output"])
    assert found["10.weight_output"] == pytest.approx(0.5 if kept else measured, rel=1e-6)
    assert found["10.bias_output"] == pytest.approx(float(np.float32(parse_oracle("minmax")["10.bias_output"])), rel=1e-6)


def test_what_tensorrt_itself_wrote_is_taken_as_it_is(tmp_path: Path) -> None:
    request = {"model": str(MODEL), "table": "", "native_cache": str(tmp_path / "own"), "kept": {}, "out": ""}
    assert write_cache(request) == tmp_path / "own"
