"""Real TensorRT, up to 10, builds in INT8 from an exported cache and misses the scale of no tensor."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cuda.build import BuildOptions, build_plan
from app.cuda.device import Device
from app.cuda.network import parse_network
from app.cuda.runtime import open_tensorrt
from app.engines.calibrators import open_cached_calibrator
from app.quant.table import scale_from_amax, table_from_scales, table_to_json
from app.quant.trt_cache import format_trt_cache
from app.spec import ShapeProfile
from app.worker.steps.export_cache import export_cache
from tests.quant.published import published_amax, published_path
from tests.quant.samples import digits_model, parse_oracle
from tests.running import MODEL

trt: Any = pytest.importorskip("tensorrt", reason="TensorRT is not installed here", exc_type=ImportError)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not hasattr(trt, "IInt8EntropyCalibrator2"), reason="TensorRT 11 takes no calibration cache"),
]

_MISSING = re.compile(r"[Mm]issing scale and zero-point for tensor (.+?), expect fall back")


def exported(folder: Path, model: Path, scales: dict[str, float]) -> tuple[bytes, dict[str, Any]]:
    """Return the cache that a table of these scales is exported as, and what the export said."""
    table = folder / "table.json"
    table.write_text(json.dumps(table_to_json(table_from_scales(scales))))
    told = export_cache({"model": str(model), "table": str(table), "kept": {}, "listed": []}, lambda _event: None)
    listed = {name: scale_from_amax(name, amax) for name, amax in told["amax"].items()}
    return format_trt_cache(listed, trt.__version__).encode(), told


def missing_scales(model: Path, cache: bytes, sizes: tuple[int, ...]) -> set[str]:
    """Build from the cache at level 0, and return the tensors whose scale TensorRT complains of; a GPU is open."""
    lines: list[str] = []
    network = parse_network(open_tensorrt(lambda event: lines.append(event["log"])), model, is_typed=False)
    shapes = {value.name: ShapeProfile(min=sizes, opt=sizes, max=sizes) for value in network.inputs}
    calibrator = open_cached_calibrator(trt, cache)
    build_plan(network, BuildOptions(optimization_level=0, flags=("INT8",), shapes=shapes, calibrator=calibrator))
    assert not [line for line in lines if "Starting Calibration" in line], "TensorRT did not take the cache"
    return {found[1] for line in lines for found in _MISSING.finditer(line)}


def helpers(told: dict[str, Any], names: set[str]) -> set[str]:
    """Return the names that only the parser knows, where it is not installed beside TensorRT."""
    return {name for name in names if name.startswith("ONNXTRT_")} if told["names_from"] == "rule" else set()


def test_digits_miss_nothing_where_all_was_observed(gpu: Device, tmp_path: Path) -> None:
    activations = {value.name for value in digits_model().graph.input}
    activations |= {name for node in digits_model().graph.node for name in node.output}
    scales = {name: float(scale) for name, scale in parse_oracle("minmax").items() if name in activations}
    cache, told = exported(tmp_path, MODEL, scales)
    missing = missing_scales(MODEL, cache, (1, 1, 28, 28))
    assert missing - helpers(told, missing) == set()
    assert set(told["missing"]) <= helpers(told, set(told["missing"]))


def test_what_is_missed_is_what_was_said_to_be_missing(gpu: Device, tmp_path: Path) -> None:
    oracle = parse_oracle("minmax")
    cache, told = exported(tmp_path, MODEL, {name: float(oracle[name]) for name in ("input", "/2/Relu_output_0")})
    missing = missing_scales(MODEL, cache, (1, 1, 28, 28))
    assert missing - helpers(told, missing) <= set(told["missing"])


def test_a_published_classifier_misses_nothing(gpu: Device, tmp_path: Path) -> None:
    amax = {name: value for name, value in published_amax("classifier").items() if np.float32(value / 127) > 0}
    dead = published_amax("classifier").keys() - amax.keys()
    cache, told = exported(tmp_path, published_path("classifier"), {name: value / 127 for name, value in amax.items()})
    missing = missing_scales(published_path("classifier"), cache, (1, 3, 48, 192))
    assert sorted(missing - helpers(told, missing) - dead) == []
