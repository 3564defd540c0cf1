"""models, datasets, workers, jobs: what the server has."""

import itertools
from typing import Annotated, Any

import typer

from app.client.follow import ENDED_STATES
from app.client.session import session_of
from app.client.summary import lines_from_outcome

jobs = typer.Typer(no_args_is_help=True, help="Jobs: list, show, cancel.")

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]
OneArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one: a name or id.")]


def models(context: typer.Context, reference: OneArgument = None) -> None:
    """List models, newest first, or show one."""
    session = session_of(context)
    with session.client() as client:
        found: Any = client.model(reference) if reference else list(client.models())
    columns = ("name", "id", "bytes", "inputs", "digest", "created_at")
    session.screen.table(found, columns, ([_model_cell(each, column) for column in columns] for each in _as_list(found)))


def datasets(context: typer.Context, reference: OneArgument = None) -> None:
    """List datasets, newest first, or show one."""
    session = session_of(context)
    with session.client() as client:
        found: Any = client.dataset(reference) if reference else list(client.datasets())
    columns = ("name", "id", "images", "classes", "bytes", "digest", "created_at")
    rows = [each | {"classes": len(each["labels"]) if each.get("labels") else None} for each in _as_list(found)]
    session.screen.table(found, columns, ([row.get(column) for column in columns] for row in rows))


def workers(context: typer.Context) -> None:
    """List workers and what they can do."""
    session = session_of(context)
    with session.client() as client:
        found = client.workers()
    columns = ("id", "host", "cores", "backends", "capabilities", "alive", "heartbeat_age_seconds", "running_job")
    session.screen.table(found, columns, ([_worker_cell(each, column) for column in columns] for each in found))


@jobs.command("list")
def list_jobs(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only queued, running, succeeded, failed or cancelled ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
) -> None:
    """List jobs, newest first."""
    session = session_of(context)
    with session.client() as client:
        found = list(itertools.islice(client.jobs(state), limit))
    columns = ("id", "state", "stage", "model", "dataset", "method", "error", "created_at")
    session.screen.table(found, columns, ([_job_cell(each, column) for column in columns] for each in found))


@jobs.command()
def show(context: typer.Context, job: JobArgument) -> None:
    """Show one job, whatever its state."""
    session = session_of(context)
    with session.client() as client:
        found = client.job(job)
    lines = lines_from_outcome(found)
    if found.get("error"):
        lines.append(f"{'error':10} {found['error']['code']}: {found['error']['detail']}")
    session.screen.result(found, lines)


@jobs.command()
def cancel(context: typer.Context, job: JobArgument) -> None:
    """End a job for everyone who joined it; steps already saved stay."""
    session = session_of(context)
    with session.client() as client:
        found = client.cancel(job)
    ending = "" if found["state"] in ENDED_STATES else ", ends within 15 seconds"
    session.screen.result(found, [f"{found['id']} {found['state']}{ending}"])


def _as_list(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found]


def _model_cell(model: dict[str, Any], column: str) -> Any:
    if column != "inputs":
        return model.get(column)
    return ", ".join(f"{each['name']} {each['shape']}" for each in model.get("inputs") or ())


def _job_cell(job: dict[str, Any], column: str) -> Any:
    spec = job.get("spec") or {}
    if column == "error":
        return (job.get("error") or {}).get("code")
    if column == "method":
        return (spec.get("calibration") or {}).get("method")
    return spec.get(column) if column in ("model", "dataset") else job.get(column)


def _worker_cell(worker: dict[str, Any], column: str) -> Any:
    if column == "backends":
        return ", ".join(f"{name} {facts['version']}" for name, facts in worker["backends"].items())
    return ", ".join(worker[column]) if column == "capabilities" else worker.get(column)
