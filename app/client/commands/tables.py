"""enginesmith table ...: the calibration tables that are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.client.commands.importing import Fill, import_and_wait, lines_from_import, listed
from app.client.options import grouped
from app.client.problems import LocalProblem
from app.client.session import GATE_MISSED, Session, session_of
from app.client.summary import lines_from_curve
from app.errors import Problem
from app.quant.table_diff import diff_scales, exceeds

tables = typer.Typer(no_args_is_help=True, help="Calibration tables: show, list, export, import, compare.")

TableOrFile = Annotated[str, typer.Argument(metavar="TABLE_OR_FILE", help="Id of a table, or a .cache or .json file.")]
TableArgument = Annotated[str, typer.Argument(metavar="TABLE", help="Id of a table.")]
Format = Literal["trt", "json", "ort"]
_SHOWN_DRIFTS = 40


@dataclass(frozen=True)
class ExportOptions:
    """In which form a table is written, and where."""

    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there, not to stdout.")] = None
    form: Annotated[Format, typer.Option("--format", help="trt is TensorRT's cache text.")] = "trt"
    trt_version: Annotated[str, typer.Option(help="Version in the cache's header; TensorRT accepts newer ones.")] = "10.6.0"
    algorithm: Annotated[
        str, typer.Option(help="The calibrator's that reads it: MinMaxCalibration for IInt8MinMaxCalibrator.")
    ] = "EntropyCalibration2"


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and how strictly."""

    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TRT cache, JSON, or ONNX Runtime's calibration.*.")]
    model: Annotated[str, typer.Option(help="Name or id of the model that it belongs to.")]
    min_coverage: Annotated[float | None, typer.Option(help="Refuse it below this share of matched tensors.")] = None
    fill: Annotated[Fill | None, typer.Option(help="Where the range of a tensor that it lacks comes from.")] = None
    extremes: Annotated[bool | None, typer.Option("--extremes", help="Measure least and greatest values: zero points.")] = None
    dataset: Annotated[str | None, typer.Option(help="To measure on: name or id.")] = None
    preprocess: Annotated[str | None, typer.Option(help="For these: unit, imagenet, tf, caffe, or JSON.")] = None


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
    """Show a table's scales, and beside them how far they moved as the images became more."""
    session = session_of(context)
    with session.client() as client:
        found = client.table(table)
    session.screen.table(found, ("tensor", "scale"), found["scales"].items())
    for line in lines_from_curve(found):
        session.screen.note(line)


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
def coverage(context: typer.Context, table: TableArgument) -> None:
    """Say which tensors TensorRT asks for when it builds from the table's cache, and for which it would miss a scale."""
    session = session_of(context)
    with session.client() as client:
        found = client.coverage(table)
    lines = [f"{found['listed']} listed, {found['asked']} asked for, {len(found['missing'])} missing ({found['names_from']})"]
    session.screen.result(found, lines + [f"missing: {name}" for name in found["missing"]])


@tables.command()
def diff(
    context: typer.Context,
    a: TableOrFile,
    b: TableOrFile,
    max_drift: Annotated[
        float | None, typer.Option(min=0, help="Exit with 3 if a scale moved by more than this fraction, or one is missing.")
    ] = None,
) -> None:
    """Compare the scales of two tables, the largest drift first; two files (.cache, .json) need no server."""
    session = session_of(context)
    found = _diff_files(Path(a), Path(b)) if Path(a).is_file() and Path(b).is_file() else _diff_stored(session, a, b)
    columns = ("tensor", "first", "second", "ratio", "drift")
    session.screen.table(found, columns, (_diff_cells(row) for row in found["tensors"][:_SHOWN_DRIFTS]))
    _tell_rest(session, found)
    if max_drift is not None and exceeds(found, max_drift):
        session.screen.note(f"the tables differ by more than {max_drift:g}", style="red")
        raise typer.Exit(GATE_MISSED)


@tables.command("import")
@grouped
def import_table(context: typer.Context, wanted: ImportOptions) -> None:
    """Store a TensorRT cache, or ONNX Runtime's or ModelOpt's table, as `imported`; filled up it is `derived`."""
    session = session_of(context)
    with session.client() as client:
        found = import_and_wait(session, client, wanted.path, _options(wanted))
    session.screen.result(found, lines_from_import(found))


def _options(wanted: ImportOptions) -> dict[str, Any]:
    names = ("model", "min_coverage", "fill", "extremes", "dataset", "preprocess")
    return {name: getattr(wanted, name) for name in names if getattr(wanted, name) is not None}


def _diff_stored(session: Session, a: str, b: str) -> dict[str, Any]:
    for argument in (a, b):
        if Path(argument).is_file():
            raise typer.BadParameter(f"{argument} is a file, the other is none; name two files, or two tables")
    with session.client() as client:
        return client.diff(a, b)


def _diff_files(a: Path, b: Path) -> dict[str, Any]:
    return {"first": str(a), "second": str(b)} | diff_scales(_read_scales(a), _read_scales(b))


def _read_scales(path: Path) -> dict[str, Any]:
    from app.quant.foreign import is_flatbuffer, parse_foreign  # numpy takes its time, which other commands need not pay
    from app.quant.table import scales_from_table

    try:
        content = path.read_bytes()
        if is_flatbuffer(content):
            raise LocalProblem(f"{path} is binary; `enginesmith table import` has the server read it, then name its table.")
        return dict(scales_from_table(parse_foreign(content).table))
    except Problem as problem:
        raise LocalProblem(f"{path}: {problem.detail}") from problem
    except OSError as error:
        raise LocalProblem(f"Cannot read {path}: {error.strerror}.") from error


def _diff_cells(row: dict[str, Any]) -> list[str]:
    numbers = (f"{row[name]:.6g}" for name in ("first", "second", "ratio"))
    return [row["tensor"], *numbers, f"{row['drift']:.3%}"]


def _tell_rest(session: Session, found: dict[str, Any]) -> None:
    for name in ("only_in_first", "only_in_second"):
        if found[name]:
            session.screen.note(f"{len(found[name])} {name.replace('_', ' ')}: {listed(found[name])}")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LocalProblem(f"Cannot write {path}: {error.strerror}.") from error
