"""What the command line shows: results on stdout, all else on stderr; with --json one document on stdout."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

from app.client.events import Event
from app.client.upload import Progress as ByteProgress

#: Where stdout is no terminal its width is nobody's, and a cut id would be useless.
_FILE_COLUMNS = 200


class Screen:
    """Two consoles and the choice between people and machines."""

    def __init__(self, json_output: bool = False) -> None:
        self.json_output = json_output
        width = None if sys.stdout.isatty() else _FILE_COLUMNS
        self._out = Console(width=width, markup=False, highlight=False, emoji=False)
        self._notes = Console(stderr=True, markup=False, highlight=False, emoji=False)

    def result(self, document: Any, lines: Iterable[str] = ()) -> None:
        """Show a result: the document to machines, the lines to people."""
        if self.json_output:
            self._json(document)
        else:
            self.lines(lines)

    def lines(self, lines: Iterable[str]) -> None:
        """Show lines to people."""
        for line in lines:
            self._out.print(plain(line), soft_wrap=True)

    def table(self, document: Any, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Show a result as a table to people; an empty cell stands for None."""
        if self.json_output:
            self._json(document)
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*("" if cell is None else plain(cell) for cell in row))
        self._out.print(table)

    def file(self, content: bytes) -> None:
        """Write a file's text to stdout as it is."""
        sys.stdout.write(content.decode())

    def note(self, line: str, style: str | None = None) -> None:
        """Tell people one line beside the result."""
        self._notes.print(plain(line), style=style, soft_wrap=True)

    def error(self, document: dict[str, Any]) -> None:
        """Show what went wrong: one line, and the document to machines."""
        if self.json_output:
            self._json(document)
        for line in f"error: {document['detail']}".splitlines():
            self.note(line, style="red")

    @contextmanager
    def bytes_progress(self, label: str) -> Iterator[ByteProgress]:
        """Show a bar of bytes while the block runs, on a terminal only."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with self.progress(*columns) as bar:
            task = bar.add_task(plain(label), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def job_progress(self) -> Iterator["JobProgress"]:
        """Show a job's stages and progress while the block runs."""
        with self.progress(TextColumn("{task.description:10}"), BarColumn(), *_counts()) as bar:
            yield JobProgress(self, bar)

    def progress(self, *columns: Any) -> Progress:
        """Return a progress display on stderr that leaves no trace where that is no terminal."""
        return Progress(*columns, console=self._notes, transient=True, disable=not self._notes.is_terminal)

    @property
    def is_interactive(self) -> bool:
        """Whether somebody watches stderr."""
        return self._notes.is_terminal

    def _json(self, document: Any) -> None:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        sys.stdout.flush()


class JobProgress:
    """Takes a job's events: a bar a stage on a terminal, a line a stage elsewhere."""

    def __init__(self, screen: Screen, bar: Progress) -> None:
        self._screen = screen
        self._bar = bar
        self._task = bar.add_task("queued", total=None)

    def __call__(self, event: Event) -> None:
        if event.kind == "stage":
            self._enter(str(event.body.get("stage") or event.body.get("state")))
        elif event.kind == "progress":
            self._bar.update(self._task, completed=event.body.get("done") or 0, total=event.body.get("total"))
        elif event.kind == "log":
            self._screen.note(str(event.body.get("line", "")), style="dim")

    def _enter(self, stage: str) -> None:
        self._bar.reset(self._task, description=plain(stage), total=None)
        if not self._screen.is_interactive:
            self._screen.note(stage)


def _counts() -> tuple[Any, ...]:
    return TextColumn("{task.completed:.0f}/{task.total}"), TimeElapsedColumn()


def plain(value: object) -> str:
    """Return value as one line without control characters: names come from strangers, and a terminal obeys escapes."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))
