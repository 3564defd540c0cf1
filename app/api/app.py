"""The FastAPI application, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from app.api import engines, health, jobs, migrating, one_shot, tables, uploads
from app.api.context import Context
from app.api.guard import Guard
from app.api.problems import install_problem_handlers
from app.jobs.caretaker import Caretaker
from app.jobs.context import Service


def create_app(service: Service) -> FastAPI:
    """Return the application for a service whose databases are migrated."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        caretaker = Caretaker(service.settings, service.database, service.queue)
        caretaker.start()
        yield
        await asyncio.to_thread(caretaker.stop)

    app = FastAPI(title="Enginesmith", version=version("enginesmith"), lifespan=lifespan)
    app.state.context = Context(service, asyncio.Semaphore(service.settings.inspectors))
    install_problem_handlers(app)
    app.add_middleware(Guard, settings=service.settings)
    for part in (health, uploads, jobs, one_shot, migrating, tables, engines):
        app.include_router(part.router)
    return app
