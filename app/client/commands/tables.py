"""enginesmith table ...: the calibration tables that are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.client.options import grouped
from app.client.problems import LocalProblem
from app.client.session import session_of

tables = typer.Typer(no_args_is_help=True, help="Calibration tables: show, list, export, import, compare.")

TableArgument = Annotated[str, typer.Argument(metavar="TABLE", help="Id of a table.")]
Format = Literal["trt", "json", "ort"]
_SHOWN_DRIFTS = 40


@dataclass(frozen=True)
class ExportOptions:
    """In which form a table is written, and where."""

    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there, not to stdout.")] = None
    form: Annotated[Format, typer.Option("--format", help="trt is TensorRT's cache text.")] = "trt"
    trt_version: Annotated[str, typer.Option(help="Version in the cache's header; TensorRT accepts newer ones.")] = "10.6.0"
    algorithm: Annotated[str, typer.Option(help="Must be the calibrator's that reads it.")] = "EntropyCalibration2"


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and how strictly."""

    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TensorRT cache, or a table as JSON.")]
    model: Annotated[str, typer.Option(help="Name or id of the model that it belongs to.")]
    min_coverage: Annotated[float | None, typer.Option(help="Refuse it below this share of matched tensors.")] = None
    fill: Annotated[str | None, typer.Option(help="What happens to tensors that it lacks.")] = None


@tables.command("list")
def list_tables(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only tables of this model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only tables of this dataset.")] = None,
) -> None:
    """List tables, newest first; stale ones say why."""
    session = session_of(context)
    with session.client() as client:
        found = list(client.tables(model, dataset))
    columns = ("id", "model", "dataset", "method", "origin", "stale_reason", "created_at")
    session.screen.table(found, columns, ([each.get(column) for column in columns] for each in found))


@tables.command()
def show(context: typer.Context, table: TableArgument) -> None:
    """Show a table's scales."""
    session = session_of(context)
    with session.client() as client:
        found = client.table(table)
    session.screen.table(found, ("tensor", "scale"), found["scales"].items())


@tables.command()
@grouped
def export(context: typer.Context, table: TableArgument, wanted: ExportOptions) -> None:
    """Write a table as a TensorRT cache, JSON or ONNX Runtime table."""
    if wanted.form == "ort" and wanted.output is None:
        raise typer.BadParameter("ort is a binary format; say where it goes with -o", param_hint="--format")
    session = session_of(context)
    options = {"format": wanted.form, "trt_version": wanted.trt_version, "algorithm": wanted.algorithm}
    with session.client() as client:
        content = client.export(table, options)
    if wanted.output is not None:
        _write(wanted.output, content)
        document = {"table_id": table, "path": str(wanted.output), "bytes": len(content)}
        session.screen.result(document, [str(wanted.output)])
    elif session.screen.json_output and wanted.form == "trt":
        session.screen.result({"table_id": table, "text": content.decode()})
    else:
        session.screen.file(content)


@tables.command()
def diff(context: typer.Context, a: TableArgument, b: TableArgument) -> None:
    """Compare the scales of two tables, the largest drift first."""
    session = session_of(context)
    with session.client() as client:
        found = client.diff(a, b)
    columns = ("tensor", "ratio", "drift")
    rows = ([drift["tensor"], f"{drift['ratio']:.6g}", f"{drift['drift']:.3%}"] for drift in found["tensors"][:_SHOWN_DRIFTS])
    session.screen.table(found, columns, rows)


@tables.command("import")
@grouped
def import_table(context: typer.Context, wanted: ImportOptions) -> None:
    """Store a TensorRT cache as a table of origin `imported`."""
    session = session_of(context)
    options = {"model": wanted.model, "min_coverage": wanted.min_coverage, "fill": wanted.fill}
    with session.client() as client:
        found = client.import_table(wanted.path, options)
    counts = ", ".join(f"{found[name]} {name}" for name in ("matched", "constants", "unknown", "missing"))
    session.screen.result(found, [f"table {found['id']}", counts])


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LocalProblem(f"Cannot write {path}: {error.strerror}.") from error
