"""enginesmith bench gpu: what calibration costs on this machine's GPU, beside a plain forward pass and TensorRT's own."""

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

_COLUMNS = ("net", "what", "seconds", "images/s", "x plain", "search", "TensorRT's / ours", "same amax")


@dataclass(frozen=True)
class GpuNet:
    """On what to measure."""

    model: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="ONNX model; default a thin ResNet-50.")] = (
        None
    )
    images: Annotated[Path | None, typer.Option(exists=True, help="Folder, zip or tar of images; default noise.")] = None
    count: Annotated[int, typer.Option(min=1, help="How many images, over and over.")] = 128
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width, where the model's input leaves them open.")
    ] = None


@dataclass(frozen=True)
class GpuMeasures:
    """What to measure, and how often."""

    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 8
    observe: Annotated[Literal["all", "needed"], typer.Option(help="Which activations ours counts.")] = "all"
    runs: Annotated[int, typer.Option(min=1, help="How often plain and ours are measured.")] = 3
    native: Annotated[bool, typer.Option("--native/--no-native", help="Whether to run TensorRT's own calibrators.")] = True


@grouped
def measure_gpu(context: typer.Context, net: GpuNet, measures: GpuMeasures) -> None:
    """Measure calibration on a GPU beside a plain FP32 forward pass and TensorRT's own calibrators; ratios of one run."""
    from app.bench.gpu import GpuOptions, bench_gpu, default_gpu_net  # loads the runtimes
    from app.bench.prepare import Wanted

    if net.model is None and net.images is not None:
        raise typer.BadParameter("--images needs --model")
    preprocess = PreprocessSpec(size=net.size)
    wanted = Wanted(net.model.stem, net.model, net.images, net.count, preprocess) if net.model else default_gpu_net(net.count)
    session = session_of(context)
    try:
        options = GpuOptions(measures.batch, measures.observe, measures.runs, measures.native)
        document = bench_gpu(wanted, options, session.screen.note)
    except Problem as problem:
        raise LocalProblem(f"Cannot measure {wanted.name}: {problem.detail}") from problem
    session.screen.table({"nets": [document]}, _COLUMNS, _rows(document))
    if not session.screen.json_output:
        session.screen.lines(_lines(document))


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    net = f"{document['net']}, {document['images']} images"
    for plain in document["plain"]:
        yield (
            net,
            f"plain FP32, {plain['batch']} a pass",
            _seconds(plain),
            f"{plain['images_per_second']:.0f}",
            "",
            "",
            "",
            "",
        )
    for grid, ours in document["ours"].items():
        what = f"Enginesmith, grid {grid}, {ours['images_a_pass']} a pass ({ours['tensors']} tensors)"
        figures = (_seconds(ours), f"{ours['images_per_second']:.0f}", f"{document['ratio'][grid]:.2f}")
        yield (net, what, *figures, f"{ours['search_seconds']:.3f}", "", "")
    if document["together"]:
        together = document["together"]
        rate = f"{together['images_per_second']:.0f}"
        yield (net, f"Enginesmith, {together['gpus']} GPUs, all images on each", _seconds(together), rate, "", "", "", "")
    for method, native in document["native"].items():
        if "failed" in native:
            yield (net, f"{method}: {native['failed']}", "", "", "", "", "", "")
            continue
        speedup = " / ".join(f"{value:.0f}" for value in native["speedup"].values())
        what = f"TensorRT's {method} ({native['tensors']} tensors)"
        images_per_second = f"{document['images'] / native['seconds']:.0f}"
        yield (net, what, _seconds(native), images_per_second, "", "", speedup, _agreement(native))


def _agreement(native: dict[str, Any]) -> str:
    found = native.get("agreement")
    return "" if found is None or found["same"] is None else f"{100 * found['same']:.0f} % of {found['tensors']}"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    gpu, grids = document["gpu"], " and ".join(document["ours"])
    yield ""
    yield f"{gpu['name']}, driver {gpu['driver']}, TensorRT {document['tensorrt']}; TensorRT's / ours: on grids {grids}"
    for grid, ours in document["ours"].items():
        start, search = f"{ours['start_seconds']:.1f} s", f"{ours['all_methods_seconds']:.2f} s"
        yield f"  grid {grid}: {start} until the first image, {search} to search by all methods"


def _seconds(measured: dict[str, Any]) -> str:
    return f"{measured['seconds']:.3f}"
