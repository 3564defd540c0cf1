"""enginesmith bench accuracy: what quantization costs in accuracy, by every method and option, beside other quantizers."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.client.client import Client
from app.client.embedded import running_server
from app.client.options import grouped
from app.client.problems import LocalProblem
from app.client.session import Session, session_of
from app.client.summary import format_share
from app.errors import Problem

_COLUMNS = (
    "net",
    "images",
    "what",
    "agreement",
    "least",
    "expected",
    "accuracy FP32",
    "accuracy INT8",
    "cosine",
    "SQNR dB",
    "float",
)
_SHARES = ("agreement", "agreement_least", "expected_agreement", "accuracy_fp32", "accuracy_int8")
#: EfficientNet-Lite0 was trained on (pixel - 127) / 128.
_EFFICIENTNET = {"scale": 1.0, "mean": [127.0], "std": [128.0]}


@dataclass(frozen=True)
class Subjects:
    """On what to measure."""

    model: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="ONNX model; default the built-in nets.")] = (
        None
    )
    images: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Zip of images, which is halved.")] = None
    judge: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Zip to judge on; then all of --images is calibrated on.")
    ] = None
    preprocess: Annotated[str | None, typer.Option(help="Preset name, or JSON as in a JobSpec.")] = None
    splits: Annotated[int, typer.Option(min=1, max=64, help="How often images are halved, each half judged in turn.")] = 2
    assets: Annotated[
        Path | None,
        typer.Option(envvar="ENGINESMITH_ASSETS", exists=True, file_okay=False, help="Folder with EfficientNet-Lite0."),
    ] = None


@dataclass(frozen=True)
class Ways:
    """Which quantizers to measure."""

    others: Annotated[bool, typer.Option("--others/--no-others", help="Whether to run onnxruntime's quantizer, too.")] = True
    modelopt_python: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Python of an environment with nvidia-modelopt[onnx].")
    ] = None
    only: Annotated[
        list[str] | None, typer.Option(help="Measure the ways alone that have this word in their name; may be repeated.")
    ] = None
    method: Annotated[
        Literal["auto", "entropy", "minmax", "percentile", "mse"], typer.Option(help="Method beside options.")
    ] = "auto"
    min_agreement: Annotated[float | None, typer.Option(min=0, max=1, help="Gate of the ways that exclude auto.")] = None
    max_excluded: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of multiply-adds that these may leave in float.")
    ] = None


@grouped
def accuracy(context: typer.Context, subjects: Subjects, ways: Ways) -> None:
    """Quantize by every method and option, and by other quantizers, and judge all on images that none has seen."""
    session = session_of(context)
    if (subjects.model is None) != (subjects.images is None):
        raise typer.BadParameter("--model and --images need each other")
    if subjects.judge is not None and subjects.model is None:
        raise typer.BadParameter("--judge needs --model and --images")
    with tempfile.TemporaryDirectory(prefix="enginesmith-bench-") as folder:
        session.screen.note("starting a server")
        with running_server(Path(folder, "data")) as address, Client(address) as client:
            rows = _measure(session, client, _splits(subjects, Path(folder)), ways)
    session.screen.table({"rows": rows}, _COLUMNS, (_cells(row) for row in rows))


def _splits(subjects: Subjects, folder: Path) -> Iterator[Any]:
    from app.bench.splits import Halved, Split, digits_split  # loads the runtimes

    if subjects.model is not None and subjects.images is not None:
        preprocess = _preprocess(subjects.preprocess)
        if subjects.judge is not None:
            yield Split(subjects.model.stem, "images, judge", subjects.model, subjects.images, subjects.judge, preprocess)
            return
        yield from Halved(subjects.model.stem, subjects.model, subjects.images, preprocess, subjects.splits).write(folder)
        return
    yield digits_split()
    if subjects.assets is not None:
        model, images = subjects.assets / "efficientnet-lite0.onnx", subjects.assets / "photos-256.zip"
        yield from Halved("EfficientNet-Lite0", model, images, _EFFICIENTNET, subjects.splits).write(folder)


def _preprocess(text: str | None) -> Any:
    from app.spec import preprocess_from_json

    if text is None:
        return {}
    try:
        return preprocess_from_json(json.loads(text) if text.lstrip().startswith("{") else text)
    except ValueError as error:
        raise typer.BadParameter(f"--preprocess: {error}") from error


def _measure(session: Session, client: Client, splits: Iterator[Any], ways: Ways) -> list[dict[str, Any]]:
    from app.bench.accuracy import Options, bench_accuracy

    python = str(ways.modelopt_python) if ways.modelopt_python else None
    try:
        options = Options(
            session.screen.note, ways.others, python, tuple(ways.only or ()), ways.method, ways.min_agreement, ways.max_excluded
        )
        return bench_accuracy(splits, client, options)
    except Problem as problem:
        raise LocalProblem(f"Cannot measure: {problem.detail}") from problem


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    net = (row["net"], "", row["what"])
    if "failed" in row:
        return (*net, row["failed"], *[""] * (len(_COLUMNS) - len(net) - 1))
    shares = (format_share(row[name]) for name in _SHARES)
    cosine, sqnr = row["cosine"], row["sqnr_db"]
    figures = ("-" if cosine is None else f"{cosine:.5f}", "-" if sqnr is None else f"{sqnr:.2f}")
    return (row["net"], str(row["images"]), row["what"], *shares, *figures, format_share(row["float_share"]))
