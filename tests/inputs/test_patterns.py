"""Whatever exporters write is taken at upload: every pattern, in its oldest and its newest opset."""

from pathlib import Path

import pytest

from tests.inputs.test_model import inspect
from tests.quant.patterns import PATTERNS

ENDS = sorted({(name, opset) for name, pattern in PATTERNS.items() for opset in (pattern.opsets[0], pattern.opsets[-1])})


@pytest.mark.parametrize(("name", "opset"), ENDS)
def test_every_pattern_is_taken(tmp_path: Path, name: str, opset: int) -> None:
    model = PATTERNS[name].build(opset)
    facts = inspect(tmp_path, model.SerializeToString())
    assert facts["opset"] == opset
    assert [output["name"] for output in facts["outputs"]] == [output.name for output in model.graph.output]
