"""What a route works with."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from app.jobs.context import Service


@dataclass
class Context:
    """The service, and how many uploads may be parsed at once."""

    service: Service
    inspecting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))


def _context(request: Request) -> Context:
    return request.app.state.context


def _service(request: Request) -> Service:
    return request.app.state.context.service


InContext = Annotated[Context, Depends(_context)]
InService = Annotated[Service, Depends(_service)]
