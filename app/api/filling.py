"""fill=minmax-from-dataset, extremes=true: what an imported table lacks is measured by an ordinary job, then taken over."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Response

from app.api.asked_spec import preprocess_from_text, spec_from_fields
from app.api.context import Context
from app.api.importing import Import, read_import, store_import
from app.api.jobs import ENDED, submit_and_wait
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


def check_measuring(fill: str, extremes: bool, measuring: Measuring) -> None:
    """Raise SpecProblem where a dataset is missing, or given for nothing."""
    if (extremes or fill == "minmax-from-dataset") != (measuring.dataset is not None):
        reason = "dataset=NAME goes with fill=minmax-from-dataset or extremes=true, which measure on it: give both, or neither"
        raise SpecProblem(reason=reason)


async def import_table(context: Context, wanted: Import, measuring: Measuring, response: Response) -> dict[str, Any]:
    """Store the table and return its document, or the document of the job that measures what it lacks (202).

    Raises TableProblem, TableScaleInvalid, TableCoverage, SpecProblem, CalibrationProblem and what `submit` raises.
    """
    answer = await read_import(context, wanted)
    if must_measure(wanted, answer):
        job = await submit_and_wait(
            context.service, measuring_spec(wanted, measuring, answer), response, measuring.wait_seconds
        )
        if job["state"] not in ENDED:
            return job
        wanted = await with_measured(context, wanted, job)
        answer = await read_import(context, wanted)
    document = await store_import(context, wanted, answer)
    response.status_code = 201
    response.headers["Location"] = f"/v1/tables/{document['id']}"
    return document


def must_measure(wanted: Import, answer: dict[str, Any]) -> bool:
    """Return whether a dataset tells what is wanted, of a table that `read_import` gave this answer for."""
    return wanted.extremes or (wanted.fill == "minmax-from-dataset" and bool(answer["details"]["missing"]))


def measuring_spec(wanted: Import, measuring: Measuring, answer: dict[str, Any]) -> JobSpec:
    """Return the spec of the job that measures. Raises SpecProblem."""
    fields: dict[str, Any] = {"model": wanted.model.id, "dataset": measuring.dataset, "engine": None}
    # Between equalized convolutions the ranges are others.
    fields["quantize"] = {"equalize": answer["equalizer"] is not None}
    fields |= preprocess_from_text(measuring.preprocess)
    return spec_from_fields(fields | {"calibration": {"method": "minmax"}})


async def with_measured(context: Context, wanted: Import, job: dict[str, Any]) -> Import:
    """Return what is wanted with the table that the job has computed. Raises CalibrationProblem where it has not."""
    return replace(wanted, computed=await asyncio.to_thread(_measured_table, context, job))


def _measured_table(context: Context, job: dict[str, Any]) -> TableRow:
    if job["state"] != "succeeded":
        told = (job["error"] or {}).get("detail", job["state"])
        raise CalibrationProblem(reason=f"{told} (job {job['id']}, which measures what the imported table lacks)")
    with context.service.database.reading() as session:
        return results.get_table(session, job["table_id"])
