"""calibrate, build, wait, pull: from a model and images to a plan on this disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.client.client import Client
from app.client.commands.push import Kind, Source, push, source_from_argument
from app.client.follow import ENDED_STATES
from app.client.jobspec import CalibrationOptions, EngineOptions, document_from_options, spec_from_document
from app.client.options import grouped
from app.client.problems import ClientProblem
from app.client.session import INTERRUPTED, Session, exit_code_from_job, session_of
from app.client.summary import lines_from_outcome
from app.spec import JobSpec

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where the plan goes: a file, or a folder that exists.")
]


@dataclass(frozen=True)
class Ending:
    """What is done once a job is submitted."""

    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the job has ended.")] = True
    output: OutputOption = None


@grouped
def calibrate(
    context: typer.Context,
    calibration: CalibrationOptions,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the job has ended.")] = True,
) -> None:
    """Compute a calibration table, or find the one that exists."""
    _run(session_of(context), document_from_options(calibration, None), Ending(wait))


@grouped
def build(context: typer.Context, calibration: CalibrationOptions, engine: EngineOptions, ending: Ending) -> None:
    """Calibrate, quantize, build and judge an engine; download its plan with -o."""
    if ending.output and not ending.wait:
        raise typer.BadParameter("-o needs the job's end; leave out --no-wait, or use `enginesmith pull` later")
    _run(session_of(context), document_from_options(calibration, engine), ending)


def wait(context: typer.Context, job: Annotated[str, typer.Argument(help="Id of a job.")]) -> None:
    """Stay until a job has ended; the exit code says how."""
    session = session_of(context)
    with session.client() as client:
        _finish(session, client, _follow(session, client, job))


def pull(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="ENGINE_OR_JOB", help="Id of an engine, or of a job that built one.")],
    output: OutputOption = None,
) -> None:
    """Download a plan, checked against its digest; a broken download is continued."""
    session = session_of(context)
    with session.client() as client:
        engine = client.engine(_engine_id(client, source))
        path = _download(session, client, engine, output)
    session.screen.result(engine | {"plan": str(path)}, [f"{path}  {engine['bytes']} bytes  sha256 {engine['digest']}"])


def _run(session: Session, document: dict[str, Any], ending: Ending) -> None:
    sources = _take_sources(document)
    spec = spec_from_document(document)
    with session.client() as client:
        for source in sources:
            push(session, client, source)
        job = _submit(session, client, spec)
        if ending.wait:
            _finish(session, client, _follow(session, client, job["id"], job), ending.output)
    if not ending.wait:
        session.screen.result(job, [job["id"]])


def _take_sources(document: dict[str, Any]) -> list[Source]:
    # Paths are replaced by the names that their files will have, so that the whole spec is checked before any upload.
    judge = document.get("judge")
    places: list[tuple[dict[str, Any], str, Kind]] = [(document, "model", "model"), (document, "dataset", "dataset")]
    if isinstance(judge, dict):
        places.append((judge, "dataset", "dataset"))
    sources = []
    for place, field, kind in places:
        written = place.get(field)
        source = source_from_argument(kind, written) if isinstance(written, str) else None
        if source is not None:
            place[field] = source.target
            sources.append(source)
    return sources


def _submit(session: Session, client: Client, spec: JobSpec) -> dict[str, Any]:
    job = client.submit(spec)
    if job.get("joined"):
        session.screen.note(f"joined {job['id']}, which does the same already")
    elif job["state"] not in ENDED_STATES:
        session.screen.note(f"submitted {job['id']}")
    return job


def _follow(session: Session, client: Client, job_id: str, job: dict[str, Any] | None = None) -> dict[str, Any]:
    job = job or client.job(job_id)
    if job["state"] in ENDED_STATES:
        return job
    try:
        with session.screen.job_progress() as progress:
            return client.wait(job_id, progress)
    except KeyboardInterrupt:
        session.screen.note(f"{job_id} goes on: `enginesmith wait {job_id}`, or `enginesmith jobs cancel {job_id}`")
        raise typer.Exit(INTERRUPTED) from None


def _finish(session: Session, client: Client, job: dict[str, Any], output: Path | None = None) -> None:
    outcome = dict(job)
    if job.get("report_url"):
        outcome["report"] = client.job_report(job["id"])
    elif job.get("table_id"):
        outcome["table"] = {name: told for name, told in client.table(job["table_id"]).items() if name != "scales"}
    if output is not None and job["state"] == "succeeded":
        outcome["plan"] = str(_download(session, client, client.engine(_engine_id(client, job["id"])), output))
    session.screen.result(outcome, lines_from_outcome(outcome))
    if job.get("error"):
        session.screen.note(f"error: {job['error']['code']}: {job['error']['detail']}", style="red")
    raise typer.Exit(exit_code_from_job(job))


def _download(session: Session, client: Client, engine: dict[str, Any], output: Path | None) -> Path:
    suffix = ".onnx" if engine["backend"] == "onnxruntime" else ".plan"
    own_name = f"{engine['id']}{suffix}"
    destination = output or Path(own_name)
    destination = destination / own_name if destination.is_dir() else destination
    with session.screen.bytes_progress(destination.name) as progress:
        return client.download_plan(engine["id"], destination, progress)


def _engine_id(client: Client, source: str) -> str:
    if not source.startswith("job_"):
        return source
    job = client.job(source)
    if job.get("engine_id") is None:
        raise ClientProblem(f"Job {source} ({job['state']}) has no engine. `enginesmith build` makes one.")
    return job["engine_id"]
