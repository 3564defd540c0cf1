"""fill=minmax-from-dataset: what an imported table lacks is measured by an ordinary calibration job, then taken over."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from pydantic import ValidationError

from app.api.context import Context
from app.api.importing import Import
from app.api.jobs import submit_and_wait
from app.db import results
from app.db.rows import TableRow
from app.errors import CalibrationProblem, SpecProblem
from app.spec import JobSpec


@dataclass(frozen=True)
class Measuring:
    """On what is measured: a dataset's name, a preprocess spec as in a JobSpec (JSON text or a preset), and the wait."""

    dataset: str | None
    preprocess: str | None
    wait_seconds: float


def check_measuring(fill: str, measuring: Measuring) -> None:
    """Raise SpecProblem where a dataset is missing, or given for nothing."""
    if (fill == "minmax-from-dataset") != (measuring.dataset is not None):
        raise SpecProblem(reason="dataset=NAME and fill=minmax-from-dataset go together: give both, or neither")


async def measure(context: Context, wanted: Import, measuring: Measuring, response: Response) -> dict[str, Any]:
    """Submit the minmax calibration of the model, or join it, and return its job's document, ended or not.

    Raises SpecProblem and what `submit` raises.
    """
    return await submit_and_wait(context.service, _spec(wanted, measuring), response, measuring.wait_seconds)


async def measured_table(context: Context, job: dict[str, Any]) -> TableRow:
    """Return the table of an ended job. Raises CalibrationProblem where it failed."""
    if job["state"] != "succeeded":
        told = (job["error"] or {}).get("detail", job["state"])
        raise CalibrationProblem(reason=f"{told} (job {job['id']}, which measures what the imported table lacks)")
    return await asyncio.to_thread(_load, context, job["table_id"])


def _load(context: Context, table_id: str) -> TableRow:
    with context.service.database.reading() as session:
        return results.get_table(session, table_id)


def _spec(wanted: Import, measuring: Measuring) -> JobSpec:
    fields: dict[str, Any] = {"model": wanted.model.id, "dataset": measuring.dataset, "engine": None}
    if measuring.preprocess is not None:
        fields["preprocess"] = _preprocess(measuring.preprocess)
    try:
        return JobSpec.model_validate(fields | {"calibration": {"method": "minmax"}})
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecProblem(reason=f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def _preprocess(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise SpecProblem(reason=f"preprocess is neither a preset's name nor JSON ({error})") from error
