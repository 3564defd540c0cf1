"""Health, limits, workers, metrics."""

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.responses import Response

from app.api.context import InService
from app.db import jobs, workers
from app.errors import ServiceProblem
from app.jobs.context import Service

router = APIRouter()

_JOB_STATES = ("queued", "running")


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Answer while the process lives."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: InService) -> dict[str, str]:
    """Answer 200 when database and blobs answer and, where this server runs a worker, that worker was heard of."""
    service.blobs.check()
    with service.database.reading() as session:
        alive = [row for row, age in workers.list_workers(session) if age < service.settings.dead_after_seconds]
    if service.settings.worker and not any(row.queues for row in alive):
        raise ServiceProblem(reason="the worker is still starting")
    return {"status": "ready"}


@router.get("/limits")
def limits(service: InService) -> dict[str, Any]:
    """Show every limit that a request may run into."""
    settings = service.settings
    own = {"max_upload_bytes": settings.max_upload_bytes, "upload_idle_seconds": settings.upload_idle_seconds}
    return own | {"inputs": settings.input_limits.model_dump(), "steps": settings.step_limits.model_dump()}


@router.get("/v1/workers")
def list_workers(service: InService) -> dict[str, Any]:
    """List the workers: what they can build, their versions and GPUs, when they were heard of, what they do."""
    with service.database.reading() as session:
        known = workers.list_workers(session)
        running = workers.running_jobs(session)
    items = [
        {
            "id": row.id,
            "capabilities": row.queues,
            "backends": row.facts["backends"],
            "gpus": row.facts["backends"].get("tensorrt", {}).get("gpus", []),
            "host": row.facts["host"],
            "cores": row.facts["cores"],
            "memory_bytes": row.facts["memory_bytes"],
            "python": row.facts["python"],
            "tools": row.facts["tools"],
            "heartbeat_age_seconds": round(age, 1),
            "alive": age < service.settings.dead_after_seconds,
            "running_job": running.get(row.id),
            "started_at": row.started_at.isoformat(),
        }
        for row, age in known
    ]
    return {"items": items, "next": None}


@router.get("/metrics")
def metrics(service: InService) -> Response:
    """Show queue and workers for Prometheus."""
    return Response(generate_latest(_registry(service)), media_type=CONTENT_TYPE_LATEST)


def _registry(service: Service) -> CollectorRegistry:
    registry = CollectorRegistry()
    by_state = Gauge("enginesmith_jobs", "Live jobs by state", ["state"], registry=registry)
    alive = Gauge("enginesmith_workers", "Workers with a fresh heartbeat", registry=registry)
    with service.database.reading() as session:
        live = jobs.list_live_jobs(session)
        known = workers.list_workers(session)
    for state in _JOB_STATES:
        by_state.labels(state).set(sum(row.state == state for row in live))
    alive.set(sum(age < service.settings.dead_after_seconds for _, age in known))
    return registry
