"""enginesmith migrate: a model and its old calibration cache in, the Q/DQ model that TensorRT 11 wants out."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.client.client import Client
from app.client.commands.importing import Fill, import_and_wait
from app.client.commands.push import Source, push
from app.client.embedded import running_server
from app.client.jobspec import preprocess_from_text
from app.client.migration import lines_from_migration
from app.client.options import grouped
from app.client.problems import JobFailed, LocalProblem
from app.client.session import Session, session_of
from app.spec import FloatType, Placement

_ASYMMETRIC = (
    "Zero points, for ONNX Runtime alone. A cache does not say how far a tensor goes below zero: without --images only those "
    "get one that cannot, by their operators; with --images the ends are measured."
)


@dataclass(frozen=True)
class Files:
    """What is migrated, and where it goes."""

    model: Annotated[Path, typer.Argument(exists=True, help="ONNX file (FP32), or an archive with external data.")]
    cache: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TensorRT cache, or another tool's table.")]
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the Q/DQ model goes.")]


@dataclass(frozen=True)
class Choices:
    """How it is migrated."""

    fill: Annotated[Fill, typer.Option(help="Ranges that the cache lacks: equal or bounding neighbours, or measured.")] = (
        "neighbours"
    )
    min_coverage: Annotated[float, typer.Option(min=0, max=1, help="Refuse the cache below this share of tensors.")] = 0.5
    placement: Annotated[Placement, typer.Option(help="Where Q/DQ pairs go.")] = "default"
    float_type: Annotated[FloatType, typer.Option(help="What stays float is computed in this.")] = "fp32"
    exclude: Annotated[list[str] | None, typer.Option(help="Node, tensor or pattern that stays float; repeatable.")] = None
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help=_ASYMMETRIC)] = False


@dataclass(frozen=True)
class Judging:
    """Images to compare FP32 and INT8 on, and to measure on with --fill minmax-from-dataset or --asymmetric."""

    images: Annotated[Path | None, typer.Option(exists=True, help="Folder or archive; a folder a class makes labels.")] = None
    judge_images: Annotated[int | None, typer.Option(min=1, help="Compare on so many; default all.")] = None
    preprocess: Annotated[str | None, typer.Option(help="unit, imagenet, tf, caffe, or JSON.")] = None


@grouped
def migrate(context: typer.Context, files: Files, choices: Choices, judging: Judging) -> None:
    """Turn a model and its TensorRT calibration cache into a Q/DQ model, and say what changes.

    Without --server a server of its own runs as long as the command does.
    """
    if choices.fill == "minmax-from-dataset" and judging.images is None:
        raise typer.BadParameter("minmax-from-dataset measures on --images", param_hint="--fill")
    if choices.asymmetric and choices.float_type == "fp16":
        raise typer.BadParameter("fp16 is for TensorRT, which takes no zero points", param_hint="--asymmetric")
    session = session_of(context)
    with _client(context, session) as client:
        document = _migrate(session, client, _Task(files, choices, judging))
    session.screen.result(document, lines_from_migration(document))


@dataclass(frozen=True)
class _Task:
    files: Files
    choices: Choices
    judging: Judging

    @property
    def quantize(self) -> dict[str, Any]:
        chosen = self.choices
        own = {"placement": chosen.placement, "float_type": chosen.float_type, "exclude": chosen.exclude or []}
        return own | ({"asymmetric": True} if chosen.asymmetric else {})

    @property
    def measures(self) -> bool:
        """Whether the images tell something that the cache does not."""
        return self.judging.images is not None and (self.choices.asymmetric or self.choices.fill == "minmax-from-dataset")


def _migrate(session: Session, client: Client, task: _Task) -> dict[str, Any]:
    model = push(session, client, Source("model", task.files.model))
    dataset = push(session, client, Source("dataset", task.judging.images)) if task.judging.images else None
    table = import_and_wait(session, client, task.files.cache, _import_options(task, model, dataset))
    content = client.qdq(table["id"], task.quantize)
    _write(task.files.output, content)
    document = {"output": str(task.files.output), "bytes": len(content), "table": table, "judge": None}
    document["report"] = client.qdq_report(table["id"], task.quantize)
    if dataset is not None:
        document["judge"] = _judge(session, client, _judge_spec(task, model, table, dataset))
    return document


def _import_options(task: _Task, model: dict[str, Any], dataset: dict[str, Any] | None) -> dict[str, Any]:
    options = {"model": model["id"], "min_coverage": task.choices.min_coverage, "fill": task.choices.fill}
    if task.measures and dataset is not None:
        options |= {"dataset": dataset["id"], "preprocess": task.judging.preprocess}
        options |= {"extremes": True} if task.choices.asymmetric else {}
    return options


def _judge_spec(task: _Task, model: dict[str, Any], table: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "model": model["id"],
        "table": table["id"],
        "quantize": task.quantize | {"float_type": "fp32"},  # an engine of ONNX Runtime has no other
        "engine": {"backend": "onnxruntime"},
        "judge": {
            "dataset": dataset["id"],
            "images": task.judging.judge_images or dataset["images"],
            "float_type": task.choices.float_type,  # so the very file that was written is judged
        },
    }
    if task.judging.preprocess is not None:
        spec["preprocess"] = preprocess_from_text(task.judging.preprocess)
    return spec


def _judge(session: Session, client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    job = client.submit(spec)
    if job["state"] in ("queued", "running"):
        with session.screen.job_progress() as progress:
            job = client.wait(job["id"], progress)
    if job["state"] != "succeeded":
        raise JobFailed(job)
    return client.job_report(job["id"])


@contextmanager
def _client(context: typer.Context, session: Session) -> Iterator[Client]:
    source = context.find_root().get_parameter_source("server")
    if source is not None and source.name != "DEFAULT":
        with session.client() as client:
            yield client
        return
    folder = Path(tempfile.mkdtemp(prefix="enginesmith-"))
    try:
        with running_server(folder) as address, Client(address) as client:
            yield client
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LocalProblem(f"Cannot write {path}: {error.strerror}.") from error
