"""push-model, push-dataset, and what a MODEL or DATASET argument stands for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.client.client import Client
from app.client.session import Session, session_of
from app.client.upload import name_from_path
from app.spec import check_name

Kind = Literal["model", "dataset"]

NameOption = Annotated[str | None, typer.Option("--name", help="Name on the server; by default the file's own.")]


def push_model(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, help="ONNX file, or an archive or folder with external data.")],
    name: NameOption = None,
) -> None:
    """Upload an ONNX model."""
    session = session_of(context)
    with session.client() as client:
        model = push(session, client, Source("model", path, _checked(name)))
    lines = [f"model {model['name']}  {model['id']}", f"sha256 {model['digest']}"]
    session.screen.result(model, lines + [f"input {each['name']} {each['shape']}" for each in model["inputs"]])


def push_dataset(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, help="Folder, zip, tar, tar.gz or tar.zst of images.")],
    name: NameOption = None,
    add: Annotated[bool, typer.Option("--add", help="Add the images to the dataset of that name.")] = False,
) -> None:
    """Upload images; a folder a class makes them labelled."""
    session = session_of(context)
    with session.client() as client:
        dataset = push(session, client, Source("dataset", path, _checked(name), add))
    labels = f", {len(dataset['labels'])} classes" if dataset.get("labels") else ""
    lines = [f"dataset {dataset['name']}  {dataset['id']}", f"{dataset['images']} images{labels}"]
    session.screen.result(dataset, lines)


@dataclass(frozen=True)
class Source:
    """A file or folder to be pushed; `add` puts its images to those that are there."""

    kind: Kind
    path: Path
    name: str | None = None
    add: bool = False

    @property
    def target(self) -> str:
        """The name that it gets. Raises LocalProblem if its own makes none."""
        return self.name or name_from_path(self.path)


def push(session: Session, client: Client, source: Source) -> dict[str, Any]:
    """Upload with a progress bar and return the document."""
    send = client.push_model if source.kind == "model" else client.push_dataset
    if source.add:
        send = client.add_images
    with session.screen.bytes_progress(f"{source.kind} {source.target}") as progress:
        return send(source.path, source.target, progress)


def source_from_argument(kind: Kind, argument: str) -> Source | None:
    """Return the file or folder that an argument names, None where it is a name or id on the server.

    A folder counts only if it is written with a /, so that a folder which happens to be called like a dataset hides
    nothing. Raises typer.BadParameter for a path that leads nowhere.
    """
    path = Path(argument)
    is_written_as_path = "/" in argument or path.name != argument
    if path.is_file() or (is_written_as_path and path.is_dir()):
        return Source(kind, path)
    if is_written_as_path:
        raise typer.BadParameter(f"there is no file {argument}, and a {kind}'s name or id has no / in it")
    return None


def _checked(name: str | None) -> str | None:
    try:
        return name and check_name(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--name") from error
