"""serve and worker: options in, settings out; the server itself is imported only when it is to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from app.client.options import grouped
from app.client.problems import LocalProblem
from app.errors import Problem
from app.errors.validation import words_from_errors

if TYPE_CHECKING:
    from app.settings import Settings


@dataclass(frozen=True)
class ServeOptions:
    """Where the embedded server keeps its files and listens."""

    data: Annotated[Path | None, typer.Option(help="Folder of all that is kept; default ./enginesmith-data.")] = None
    host: Annotated[str | None, typer.Option(help="Address to listen on; other than loopback needs tokens.")] = None
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; default 8000.")] = None
    worker: Annotated[bool | None, typer.Option("--worker/--no-worker", help="Whether to start a worker too.")] = None


@dataclass(frozen=True)
class WorkerOptions:
    """Where a worker finds the jobs and the bytes."""

    data: Annotated[Path | None, typer.Option(help="Data folder of a server on this machine.")] = None
    database_url: Annotated[str | None, typer.Option(help="postgresql://... of the server.")] = None
    jobs_url: Annotated[str | None, typer.Option(help="Database of the job queue; default is that of --database-url.")] = None
    blob_url: Annotated[str | None, typer.Option(help="s3://bucket/prefix or file:///... of the server.")] = None
    queues: Annotated[str | None, typer.Option(help="Queues to serve, comma-separated; default all it can.")] = None


@grouped
def serve(options: ServeOptions) -> None:
    """Run the server: API and CPU worker, one data folder, no setup."""
    settings = _settings(asdict(options))
    from app.main import serve as run_server

    with _telling(f"serve on {settings.host} port {settings.port} with data in {settings.data}"):
        raise typer.Exit(run_server(settings))


@grouped
def worker(options: WorkerOptions) -> None:
    """Run a worker for a server on this machine (--data) or another (--database-url and --blob-url)."""
    settings = _settings(asdict(options))
    from app.work import work

    with _telling(f"work with data in {settings.data}"):
        raise typer.Exit(work(settings))


@contextmanager
def _telling(what: str) -> Iterator[None]:
    # a port in use, a folder that cannot be written, a store that does not answer
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise LocalProblem(f"Cannot {what}: {error.strerror or error}{where}.") from error
    except Problem as problem:
        raise LocalProblem(f"Cannot {what}: {problem.detail}") from problem


def _settings(options: dict[str, Any]) -> "Settings":
    # what was not given on the command line comes from ENGINESMITH_* or is the default
    from app.settings import Settings

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise typer.BadParameter(words_from_errors(error.errors()[:1])) from error
