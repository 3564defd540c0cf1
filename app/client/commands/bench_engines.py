"""enginesmith bench engines: how long a batch takes in each kind of engine that a backend builds of a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.client.options import grouped
from app.client.problems import LocalProblem
from app.client.session import session_of
from app.errors import Problem
from app.spec import PreprocessSpec

_KINDS = ("implicit", "fused", "default", "conservative", "fp16", "bf16", "fp32")
_COLUMNS = ("engine", "median ms", "p99 ms", "images/s", "plan MB", "layers", "built in s")


@dataclass(frozen=True)
class EngineNet:
    """Of what engines are built, and where its scales come from."""

    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="ONNX model.")]
    images: Annotated[Path | None, typer.Option(exists=True, help="Folder, zip or tar to calibrate on; default noise.")] = None
    cache: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="TensorRT's cache of it; default min-max on the images.")
    ] = None
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width, where the model's input leaves them open.")
    ] = None


@dataclass(frozen=True)
class EngineKinds:
    """Which engines, how they are built, and for what batch."""

    kind: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(_KINDS)}; may be given again, default all that the backend has but bf16."),
    ] = None
    backend: Annotated[Literal["tensorrt", "onnxruntime"], typer.Option()] = "tensorrt"
    batch: Annotated[int, typer.Option(min=1, help="Images a run, where the model does not fix it.")] = 8
    level: Annotated[int, typer.Option(min=0, max=5, help="TensorRT's optimization level.")] = 3
    float_type: Annotated[Literal["fp16", "fp32"], typer.Option(help="What INT8 engines of TensorRT compute the rest in.")] = (
        "fp16"
    )


@grouped
def measure_engines(context: typer.Context, net: EngineNet, kinds: EngineKinds) -> None:
    """Build a model's engines of every kind here and time them in turns, by the steps that jobs take."""
    from app.bench.engines import EngineOptions, bench_engines  # loads the runtimes
    from app.bench.prepare import Wanted

    if unknown := set(kinds.kind or ()) - set(_KINDS):
        raise typer.BadParameter(f"--kind is one of {', '.join(_KINDS)}, not {', '.join(sorted(unknown))}")
    session = session_of(context)
    options = EngineOptions(
        session.screen.note, kinds.backend, tuple(kinds.kind or ()), kinds.batch, kinds.level, kinds.float_type, net.cache
    )
    wanted = Wanted(net.model.stem, net.model, net.images, preprocess=PreprocessSpec(size=net.size))
    try:
        document = bench_engines(wanted, options)
    except Problem as problem:
        raise LocalProblem(f"Cannot measure {wanted.name}: {problem.detail}") from problem
    session.screen.table(document, _COLUMNS, _rows(document))
    if not session.screen.json_output:
        session.screen.lines(_lines(document))


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for kind, engine in document["engines"].items():
        if "failed" in engine:
            continue
        layers = ", ".join(f"{count} {name}" for name, count in (engine["layers"] or {}).items() if isinstance(count, int))
        figures = (f"{engine['median_ms']:.4f}", f"{engine['p99_ms']:.4f}", f"{engine['images_per_second']}")
        yield (kind, *figures, f"{engine['plan_bytes'] / 1e6:.2f}", layers, f"{engine['build_seconds']:.1f}")


def _lines(document: dict[str, Any]) -> Iterator[str]:
    level = f", optimization level {document['optimization_level']}" if "optimization_level" in document else ""
    yield ""
    yield f"{document['net']}, batch {document['batch']}, {document['backend']} {document['version']}{level}"
    for kind, engine in document["engines"].items():
        if "failed" in engine:
            yield f"  {kind} was not built: {engine['failed']}"
    if document.get("gpu"):
        yield f"{document['gpu']}; {document['how']}; each was built with the timings of those before it"
