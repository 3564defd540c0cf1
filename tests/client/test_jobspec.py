"""Options of calibrate and build as a JobSpec."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from app.client.jobspec import CalibrationOptions, EngineOptions, document_from_options, spec_from_document

NOTHING = EngineOptions()


def made(calibration: CalibrationOptions, engine: EngineOptions | None) -> dict[str, Any]:
    """Return what is sent to the server."""
    return spec_from_document(document_from_options(calibration, engine)).model_dump(mode="json", exclude_unset=True)


def test_the_shortest_build_sends_nothing_but_the_names() -> None:
    assert made(CalibrationOptions("m", "d"), NOTHING) == {"model": "m", "dataset": "d"}


def test_calibrate_stops_after_the_table() -> None:
    assert made(CalibrationOptions("m", "d", method="minmax"), None) == {
        "model": "m",
        "dataset": "d",
        "calibration": {"method": "minmax"},
        "engine": None,
    }


def test_every_option_has_its_place() -> None:
    calibration = CalibrationOptions(
        "m",
        "d",
        "entropy",
        "tensorrt",
        batch_size=50,
        max_images=100,
        percentile=99.9,
        observe="all",
        preprocess='{"scale": 1}',
    )
    engine = EngineOptions(
        "tensorrt-rtx",
        "int8",
        ["8.6", "8.9"],
        "fp16",
        "conservative",
        ["/conv"],
        "j",
        500,
        min_agreement=0.9,
        max_accuracy_drop=0,
        quantization="explicit",
        latency=True,
    )
    assert made(calibration, engine) == {
        "model": "m",
        "dataset": "d",
        "preprocess": {"scale": 1.0},
        "calibration": {
            "method": "entropy",
            "grid": "tensorrt",
            "batch_size": 50,
            "max_images": 100,
            "percentile": 99.9,
            "observe": "all",
        },
        "engine": {
            "backend": "tensorrt-rtx",
            "precision": "int8",
            "quantization": "explicit",
            "compute_capability": ["8.6", "8.9"],
        },
        "quantize": {"float_type": "fp16", "placement": "conservative", "exclude": ["/conv"]},
        "judge": {"dataset": "j", "images": 500, "latency": True, "gate": {"min_agreement": 0.9, "max_accuracy_drop": 0.0}},
    }


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(
        json.dumps({"model": "m", "dataset": "d", "calibration": {"method": "mse", "batch_size": 2}, "priority": 7})
    )
    assert made(CalibrationOptions(dataset="other", method="minmax", spec=path), NOTHING) == {
        "model": "m",
        "dataset": "other",
        "calibration": {"method": "minmax", "batch_size": 2},
        "priority": 7,
    }


def test_a_file_with_null_sections_takes_options(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"model": "m", "dataset": "d", "judge": {"gate": null}}')
    sent = made(CalibrationOptions(spec=path), EngineOptions(min_agreement=0.5))
    assert sent["judge"]["gate"] == {"min_agreement": 0.5}


def test_float_engines_need_no_dataset() -> None:
    sent = made(CalibrationOptions("m"), EngineOptions(precision="fp16"))
    assert sent == {"model": "m", "calibration": None, "engine": {"precision": "fp16"}}


def test_presets_pass() -> None:
    assert made(CalibrationOptions("m", "d", preprocess="imagenet"), NOTHING)["preprocess"]["resize"] == "crop"


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (CalibrationOptions(), "MODEL"),
        (CalibrationOptions("m"), "dataset is needed"),
        (CalibrationOptions("m", "d", batch_size=0), "calibration.batch_size"),
        (CalibrationOptions("m", "d", preprocess="nonsense"), "unknown preset"),
        (CalibrationOptions("m", "d", preprocess='{"size": }'), "not JSON"),
        (CalibrationOptions("m", "d", preprocess='{"sizes": [1, 1]}'), "preprocess.sizes"),
        (CalibrationOptions("M M", "d"), "model"),
        (CalibrationOptions("m", "d", spec=Path("/nowhere.json")), "nowhere.json"),
    ],
)
def test_mistakes_are_named(calibration: CalibrationOptions, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        made(calibration, NOTHING)


@pytest.mark.parametrize(
    "text", ["[1]", "{", "", '{"model": "m", "dataset": "d", "judge": 3}', '{"model": "m", "judge": {"gate": 3}}']
)
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(typer.BadParameter):
        made(CalibrationOptions(spec=path), EngineOptions(judge="j", min_agreement=0.5))


def test_converge_shards_and_equalize() -> None:
    document = made(CalibrationOptions("m", "d", converge=0.01), EngineOptions(equalize=True))
    assert (document["calibration"], document["quantize"]) == ({"converge": 0.01}, {"equalize": True})
    assert made(CalibrationOptions("m", "d", shards=4), None)["calibration"] == {"shards": 4}


def test_what_stays_float_and_what_is_tuned() -> None:
    options = EngineOptions(
        exclude=["a", "auto"], max_excluded=0.1, bias_correction=True, center=True, weight_rounding="gptq", sensitivity=True
    )
    document = made(CalibrationOptions("m", "d"), options)
    assert document["judge"] == {"sensitivity": True}
    assert document["quantize"] == {
        "exclude": ["a", "auto"], "max_excluded": 0.1, "bias_correction": True, "center": True, "weight_rounding": "gptq",
    }  # fmt: skip
