"""enginesmith demo: the whole way on digits, through a real server over HTTP, in under a minute."""

import shutil
import signal
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from app.client.client import Client
from app.client.embedded import running_server
from app.client.session import Session, session_of
from app.client.showcase import METHODS, Row, Showcase, backends_of, curl_lines, push_digits
from app.client.summary import format_share

_COLUMNS = ("backend", "method", "accuracy FP32", "accuracy INT8", "agreement", "found in cache", "seconds", "plan bytes")
_TERMINATED = 143


def demo(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="Data folder of the server; default a temporary one.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary data folder.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for plans, tables and reports.")] = Path("enginesmith-demo"),
) -> None:
    """Calibrate and build a digits model three ways, and show what each method costs in accuracy."""
    session = session_of(context)
    with _ending_on_sigterm(), _data_folder(data, keep) as folder:
        session.screen.note(f"starting a server on {folder}")
        with running_server(folder) as address, Client(address) as client:
            rows = _perform(session, client, out)
    _show(session, rows, out)
    if data or keep:
        session.screen.note(f"server data: {folder} (`enginesmith serve --data {folder}` goes on with it)")


def _perform(session: Session, client: Client, out: Path) -> list[Row]:
    session.screen.note(f"server ready on {client.server}; pushing the packaged digits")
    push_digits(client, out)
    showcase = Showcase(client, out)
    runs = [(backend, method) for backend in backends_of(client) for method in METHODS]
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with session.screen.progress(*columns) as bar:
        task = bar.add_task("", total=len(runs) + 1)
        rows = []
        for backend, method in [*runs, runs[0]]:
            bar.update(task, description=f"{backend} {method}")
            rows.append(showcase.run(backend, method))
            bar.advance(task)
    return rows


def _show(session: Session, rows: list[Row], out: Path) -> None:
    document = {"runs": [asdict(row) for row in rows[:-1]], "again": asdict(rows[-1]), "files": str(out.absolute())}
    session.screen.table(document | {"curl": curl_lines(out)}, _COLUMNS, (_cells(row) for row in rows))
    if session.screen.json_output:
        return
    session.screen.lines(
        [
            "",
            f"The last line is the first job once more: nothing was computed, {1000 * rows[-1].seconds:.0f} ms.",
            f"Plans, tables (JSON and TensorRT cache) and reports: {out.absolute()}",
            "",
            "The same with curl, against `enginesmith serve`:",
            *(f"  {line}" for line in curl_lines(out)),
        ]
    )


def _cells(row: Row) -> tuple[str, ...]:
    shares = (format_share(share) for share in (row.accuracy_fp32, row.accuracy_int8, row.agreement))
    return (row.backend, row.method, *shares, row.found, f"{row.seconds:.2f}", f"{row.plan_bytes:,}")


@contextmanager
def _data_folder(data: Path | None, keep: bool) -> Iterator[Path]:
    folder = data or Path(tempfile.mkdtemp(prefix="enginesmith-"))
    try:
        yield folder
    finally:
        if data is None and not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    # by default SIGTERM ends Python without any `finally`, and the server would live on
    def end(_number: int, _frame: types.FrameType | None) -> None:
        raise typer.Exit(_TERMINATED)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
