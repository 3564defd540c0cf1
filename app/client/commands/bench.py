"""enginesmith bench: what calibration costs on this machine, beside a plain forward pass and other calibrators."""

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile, ZipFile

import typer

from app.client.commands.bench_engines import measure_engines
from app.client.commands.bench_gpu import measure_gpu
from app.client.jobspec import preprocess_spec_from_text
from app.client.options import grouped
from app.client.problems import LocalProblem
from app.client.session import Session, session_of
from app.errors import Problem

bench = typer.Typer(help="Measure on this machine, without a server.", no_args_is_help=True)
bench.command("gpu")(measure_gpu)
bench.command("engines")(measure_engines)

_COLUMNS = ("net", "images", "what", "seconds", "x plain", "with start", "peak MB", "x plain MB", "same amax")


@dataclass(frozen=True)
class Nets:
    """On what to measure."""

    model: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="ONNX model; default the built-in nets.")] = (
        None
    )
    images: Annotated[Path | None, typer.Option(exists=True, help="Folder, zip or tar of images; default noise.")] = None
    count: Annotated[int | None, typer.Option(min=1, help="How many images, over and over; default each once.")] = None
    preprocess: Annotated[
        str | None, typer.Option(help="Preset name or JSON as in a JobSpec, such as '{\"size\": [320, 320]}' for any size.")
    ] = None
    assets: Annotated[
        Path | None,
        typer.Option(envvar="ENGINESMITH_ASSETS", exists=True, file_okay=False, help="Folder with EfficientNet-Lite0."),
    ] = None


@dataclass(frozen=True)
class Measures:
    """What to measure, and how often."""

    runs: Annotated[int, typer.Option(min=1, help="How often plain and ours are measured, in turns.")] = 3
    others: Annotated[bool, typer.Option("--others/--no-others", help="Whether to run other calibrators, too.")] = True
    modelopt_python: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Python with nvidia-modelopt; default ours, where it is installed."),
    ] = None


@bench.command("calibrate")
@grouped
def calibrate(
    context: typer.Context,
    nets: Nets,
    measures: Measures,
) -> None:
    """Measure calibration beside a plain FP32 forward pass, each in a process of its own; figures are ratios of one run."""
    session = session_of(context)
    documents = [_measure(session, wanted, measures) for wanted in _wanted(nets)]
    session.screen.table({"nets": documents}, _COLUMNS, (row for document in documents for row in _rows(document)))
    if not session.screen.json_output:
        session.screen.lines(line for document in documents for line in _lines(document))


def _wanted(nets: Nets) -> list[Any]:
    from app.bench.prepare import Wanted, default_nets, is_tar  # loads the runtimes

    if nets.model is None:
        for option, value in (("--images", nets.images), ("--preprocess", nets.preprocess)):
            if value is not None:
                raise typer.BadParameter(f"{option} needs --model")
        return default_nets(nets.assets)
    if nets.images is not None and not nets.images.is_dir() and not is_tar(nets.images):
        _check_zip(nets.images)
    count = nets.count or (None if nets.images else 64)
    return [Wanted(nets.model.stem, nets.model, nets.images, count, preprocess_spec_from_text(nets.preprocess))]


def _check_zip(path: Path) -> None:
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except BadZipFile:
        raise typer.BadParameter(f"{path} is no folder and no zip or tar of images", param_hint="--images") from None
    except (EOFError, NotImplementedError, RuntimeError, zlib.error) as error:  # RuntimeError: it is encrypted
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--images") from error
    if damaged is not None:
        raise typer.BadParameter(f"{path} cannot be read: {damaged} is damaged", param_hint="--images")


def _measure(session: Session, wanted: Any, measures: Measures) -> dict[str, Any]:
    from app.bench.calibrate import Options, bench_calibrate

    python = str(measures.modelopt_python) if measures.modelopt_python else _own_modelopt(measures)

    try:
        return bench_calibrate(wanted, Options(measures.runs, measures.others, python), session.screen.note)
    except Problem as problem:
        raise LocalProblem(f"Cannot measure {wanted.name}: {problem.detail}") from problem


def _own_modelopt(measures: Measures) -> str | None:
    """Return our interpreter where it has nvidia-modelopt (extra `bench`) and others are to be run."""
    return sys.executable if measures.others and find_spec("modelopt") else None


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    plain, ours = document["plain"], document["ours"]
    setting = f"plain FP32 ({plain['threads']}, batch {plain['batch']})"
    net = (document["net"], str(document["images"]))
    yield (*net, setting, _seconds(plain), "1.00", "1.00", _megabytes(plain), "1.00", "")
    ratios = (f"{document['ratio']:.2f}", f"{document['ratio_with_start']:.2f}")
    what = f"Enginesmith ({document['tensors']} tensors)"
    yield (*net, what, _seconds(ours), *ratios, _megabytes(ours), f"{document['memory_ratio']:.2f}", "")
    for name, other in document["others"].items():
        if "failed" in other:
            yield (*net, f"{name}: {other['failed']}", "", "", "", "", "", "")
            continue
        same = other["agreement"]["same"]
        agreement = "-" if same is None else f"{100 * same:.0f} % of {other['agreement']['tensors']}"
        what = f"{name} ({other['tensors']} tensors)"
        yield (
            *net,
            what,
            _seconds(other),
            f"{other['ratio']:.2f}",
            "",
            _megabytes(other),
            f"{other['memory_ratio']:.2f}",
            agreement,
        )


def _lines(document: dict[str, Any]) -> Iterator[str]:
    took = document["search_milliseconds"]
    methods = ", ".join(f"{method} {value:.2f}" for method, value in took.items())
    yield ""
    yield f"{document['net']}: threshold search {sum(took.values()):.2f} ms a tensor for all methods ({methods});"
    if document["added_images"]:
        more = 100 * document["added_images"] / document["images"]
        shares = (100 * document[name] for name in ("added_share", "added_process_share"))
        told = "  {:.3g} % more images cost {:.1f} % of a calibration from scratch, {:.1f} % as a worker waits;"
        yield told.format(more, *shares)
    yield f"  preparing the model, once, peaked at {document['prepare_memory_ratio']:.2f} x plain"


def _seconds(measured: dict[str, Any]) -> str:
    return f"{measured['seconds']:.2f}"


def _megabytes(measured: dict[str, Any]) -> str:
    return f"{measured['peak_bytes'] / 1e6:.0f}"
