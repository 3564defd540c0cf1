"""What a table's Q/DQ model costs against FP32: an ordinary job judges the very file, the report on the file tells it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from app.api.asked_spec import preprocess_from_text, spec_from_fields
from app.api.documents import job_document
from app.api.jobs import ENDED, report_of_job, wait_for_job
from app.api.one_shot import PLACEHOLDER
from app.db.rows import JobRow, TableRow
from app.errors import JudgeProblem, SpecProblem
from app.jobs.context import Service
from app.resolved import ResolvedJob
from app.spec import JobSpec, QuantizeSpec

#: What a job is judged on at most.
MOST_IMAGES = 100_000


@dataclass(frozen=True)
class Comparing:
    """How images are turned into input (JSON text or a preset's name), and how many of them are compared on: all for None."""

    preprocess: str | None
    images: int | None


def comparing_spec(quantize: QuantizeSpec, asked: Comparing) -> JobSpec:
    """Return the spec of the job that compares, with placeholders for model, table and dataset. Raises SpecProblem."""
    judge = {"dataset": PLACEHOLDER, "images": asked.images or MOST_IMAGES, "float_type": quantize.float_type}
    fields = {
        "model": PLACEHOLDER,
        "table": PLACEHOLDER,
        "quantize": _of_engine(quantize).model_dump(),
        "engine": {"backend": "onnxruntime"},
        "judge": judge,
    }
    return spec_from_fields(fields | preprocess_from_text(asked.preprocess))


def with_ids(spec: JobSpec, model_id: str, table_id: str, dataset_id: str) -> JobSpec:
    """Return the spec with what is stored by now in the place of placeholders."""
    judge = spec.judge.model_copy(update={"dataset": dataset_id})
    return spec.model_copy(update={"model": model_id, "table": table_id, "judge": judge})


@dataclass(frozen=True)
class Compared:
    """A job, and the Q/DQ model that it is said to be about."""

    job_id: str
    table: TableRow
    quantize: QuantizeSpec


async def compared(service: Service, asked: Compared, wait_seconds: float) -> dict[str, Any] | JobRow:
    """Return what the job measured of that Q/DQ model; the job itself where it has not ended by then.

    Raises NotFound, SpecProblem for a job about another model than that, JudgeProblem for one that failed.
    """
    job = await wait_for_job(service, asked.job_id, wait_seconds)
    _check_is_about(job, asked)
    if job.state not in ENDED:
        return job
    if job.state != "succeeded":
        told = (job.error or {}).get("detail", job.state)
        raise JudgeProblem(reason=f"{told} (job {job.id}, which compares with FP32)")
    return await asyncio.to_thread(report_of_job, service, job.id)


def running_response(job: JobRow, response: Response) -> dict[str, Any]:
    """Return the job's document, and say 202 and where to look."""
    response.status_code = 202
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job_document(job)


def _check_is_about(job: JobRow, asked: Compared) -> None:
    spec = ResolvedJob.model_validate(job.resolved).spec
    is_same = spec.table == asked.table.id and spec.quantize == _of_engine(asked.quantize)
    if not (is_same and spec.judge.float_type == asked.quantize.float_type):
        raise SpecProblem(reason=f"job {job.id} does not judge this Q/DQ model; take the link that the migration answered with")


def _of_engine(quantize: QuantizeSpec) -> QuantizeSpec:
    return quantize.model_copy(update={"float_type": "fp32"})  # an engine of ONNX Runtime has no other
